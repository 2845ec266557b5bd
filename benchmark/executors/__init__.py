"""Where tasks run: in this process, in processes here."""
