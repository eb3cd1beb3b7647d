"""What a user would do instead of coverage: pure functions that pick rows, with no Ray or torch."""
