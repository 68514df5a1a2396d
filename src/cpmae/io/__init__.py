"""Reading and writing scans, header and dtype kept. Nothing here imports torch."""
