"""Where tasks run: in this process, in processes here, on a Ray cluster."""
