"""index(): shards → rows, overlapped, bounded and resumed by shard. The door is `indexer.pipeline.run`."""
