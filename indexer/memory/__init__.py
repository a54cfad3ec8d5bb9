"""How much memory images may take: of one, and of all that a process holds at once."""
