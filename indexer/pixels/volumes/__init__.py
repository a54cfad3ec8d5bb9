"""Readers of volumes of slices, and the neighbours of a slice."""
