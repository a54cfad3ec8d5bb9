"""Plain PNGs: one, and many small ones at once."""
