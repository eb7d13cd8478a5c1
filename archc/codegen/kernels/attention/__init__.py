"""Attention: over whole sequences by tiles, and of one new token after a cache."""
