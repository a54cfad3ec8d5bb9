"""One module a command; `indexer.cli` imports the one that was asked for."""
