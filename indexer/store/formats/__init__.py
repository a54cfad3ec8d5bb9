"""Formats of a table: how one is made, what its format number means, how an older one is migrated."""
