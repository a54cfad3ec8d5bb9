"""One rewriting a module. Each changes a network in place and returns the steps that take it back, in order."""
