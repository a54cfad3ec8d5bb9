"""`python -m indexer`: the same as the console script."""

from indexer.cli import main

main()
