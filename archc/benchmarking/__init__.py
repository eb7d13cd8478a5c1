"""Benchmarks: kernels and whole models against what a user would pick instead, on the device at hand."""
