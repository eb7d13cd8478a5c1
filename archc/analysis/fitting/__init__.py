"""Scaling laws fitted to one's own runs.  Needs scipy, which the extra `analysis` brings."""
