"""From sketches to a cluster tree whose nodes take part in the coverage."""
