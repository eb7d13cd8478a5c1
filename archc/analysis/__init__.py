"""What follows from a graph: parameters, cache, operations."""
