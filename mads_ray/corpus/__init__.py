"""Read any corpus and write it as canonical shards. Each shard holds one range of uids."""
