"""`python -m indexer.demo`: real images to vectors, an index, search results and a probe, by the real commands."""
