"""Embed an archive of images once into a LanceDB table; search it and probe it for years."""
