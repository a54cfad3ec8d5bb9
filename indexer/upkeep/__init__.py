"""Keeping a table over the years: its health, an archive that moves, images that must go."""
