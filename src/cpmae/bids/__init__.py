"""BIDS data sets: what of them is done and how, and the data set that comes out."""
