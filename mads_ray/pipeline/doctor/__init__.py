"""Check a Ray cluster before a run."""
