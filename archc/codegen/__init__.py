"""Fused graph -> plan -> files.  A template sees the plan, and nothing else."""
