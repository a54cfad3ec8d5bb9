"""`python -m indexer.demo`: packs, indexes, searches and probes real images with the command lines."""
