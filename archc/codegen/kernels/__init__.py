"""Fused nodes -> plans of kernels, a folder a family."""
