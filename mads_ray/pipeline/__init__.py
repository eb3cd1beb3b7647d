"""The stages of a run, in order in `run.py`. No other part of the package imports Ray."""
