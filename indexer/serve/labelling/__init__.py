"""Labelling by search: what to show next, the labels' writing, and an estimate from images drawn at random."""
