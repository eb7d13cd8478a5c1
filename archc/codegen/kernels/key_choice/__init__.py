"""The choice of the keys that attention is over."""
