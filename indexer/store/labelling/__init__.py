"""Label columns: a user's file, its index by name, and the join to the rows."""
