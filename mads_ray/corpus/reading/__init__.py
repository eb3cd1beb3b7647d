"""From patterns to files, and from files to rows with their raw text."""
