"""Whole slides as shards, whose tiles are samples."""
