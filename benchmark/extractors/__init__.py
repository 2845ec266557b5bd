"""Feature extractors for Fréchet distances, one file each; `api.py` says what one is."""
