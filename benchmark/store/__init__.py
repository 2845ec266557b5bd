"""Files: sealed JSON, records, the cache, provenance, and where each lies."""
