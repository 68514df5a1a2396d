"""Many scans: which are done already, who works on what, and what became of each. Nothing here knows of images."""
