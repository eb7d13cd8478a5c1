"""The choice of experts, and products of experts with an activation."""
