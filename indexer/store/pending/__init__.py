"""Shards that are embedded and not yet in the table: files beside it, which a committer adds under the lease."""
