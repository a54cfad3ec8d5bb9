"""Commands that look after a table: its contents, failures, health, moves and deletions."""
