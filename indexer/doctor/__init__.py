"""Tests what this machine can decode, compute and reach."""
