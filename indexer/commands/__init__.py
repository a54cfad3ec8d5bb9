"""One module for each command; `indexer.cli` imports the one that is called."""
