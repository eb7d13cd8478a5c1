"""Elementwise ops, and whatever else works along rows that fit in registers."""
