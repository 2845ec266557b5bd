"""Image sources, one file each; `api.py` says what one is."""
