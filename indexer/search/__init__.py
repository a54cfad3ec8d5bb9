"""Similarity search: snapshots of a table, the search core (`answer`), its results and their rendering."""
