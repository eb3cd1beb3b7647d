"""Stages 2 and 3: fit the calibration, and capture the activation states of every shard."""
