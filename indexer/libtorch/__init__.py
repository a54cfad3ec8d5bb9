"""Torch's library without Python's torch."""
