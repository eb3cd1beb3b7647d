"""A monotone submodular objective in integers, lazy greedy, exchange, and a certificate of both."""
