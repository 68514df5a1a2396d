"""Training the three stages: synthetic heads, the two VQ-VAEs, the masked autoencoder."""
