"""Scaling laws: the loss of a model that has not been trained yet, from numbers in papers."""
