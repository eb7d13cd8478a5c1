"""Proof: generated code against the interpreter, and kernels against the limits of chips."""
