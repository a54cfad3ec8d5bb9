"""FAISS indexes over a table's vectors: choose, build, tune, refresh, load. The only package that imports faiss.

Independent of the table: input is row ids (n,) int64 and unit vectors (n, dim) float16.
"""
