"""Graph -> faster graph that means the same.  pipeline.py lists the passes in order."""
