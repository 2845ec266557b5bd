"""Models of other libraries as trained VAEs: one file a library, none of which is needed by anything else here."""
