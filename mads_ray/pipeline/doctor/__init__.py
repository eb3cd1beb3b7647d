"""Examine a Ray cluster before a run."""
