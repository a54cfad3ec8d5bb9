"""Engines: who works through the shards of a plan."""
