"""Orchestration: the only part of the package that knows Ray."""
