"""The spool: pieces of the input, and what pass one of ingest keeps of them for pass two."""
