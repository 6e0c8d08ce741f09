"""Text on the disk → documents → token shards → batches addressed by (seed, step)."""
