"""Indexing: shards → rows, with overlapped stages, bounded memory and resume. Entry point: `indexer.pipeline.run`."""
