"""From any corpus on disk to canonical, uid-partitioned shards."""
