"""What is measured of a prior, one file a metric; `api.py` says what a metric is given."""
