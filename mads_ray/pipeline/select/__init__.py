"""Stage 5, select: which examples are in the core set, in which order, and how good it is.

A run calls stage.py. limits.py, objective.py and load.py prepare the problem; worker.py and
workers.py hold the states. exchange.py selects, rank.py puts in order, checkpoint.py and state.py
store rounds. methods.py runs the baselines. scores.py compares with random sets (random_sets.py)
and with the best possible. dedup.py leaves out near-duplicates before all that.
"""
