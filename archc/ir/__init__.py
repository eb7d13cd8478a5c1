"""The graph IR: types, op declarations, graphs, and what reads them (printer, verifier, interpreter)."""
