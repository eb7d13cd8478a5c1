"""Norms with the sums before them."""
