"""Find the files behind patterns, and read their rows with their raw text."""
