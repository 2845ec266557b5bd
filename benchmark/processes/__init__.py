"""Processes of our own: forked clean and quickly, called by messages, and never left behind."""
