"""Whole experiments on public data sets, from the files to one table."""
