"""Stage 5, select: shard coverage sets, exchange, rank; on any number of workers."""
