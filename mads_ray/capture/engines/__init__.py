"""What runs a model and pools its neurons: one contract, an engine a file."""
