"""Ray machinery that knows nothing of core sets."""
