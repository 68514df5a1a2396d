"""The networks and their weight files. Nothing here knows of file formats of scans."""
