"""Experiments as files: what is run, what is drawn, and the claims at stake, each with the test that decides it."""
