"""The coverage objective, lazy greedy, the merge tree over shards, and what to compare with."""
