"""FAISS indexes over a table's vectors: choose, build, tune, refresh, load. Alone imports faiss.

Nothing here knows the table: it works on row ids (n,) int64 and unit vectors (n, dim) float16.
"""
