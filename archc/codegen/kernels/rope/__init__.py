"""Rotary positions, and other factors by position."""
