"""Implementations of `indexer.types.Progress`."""
