"""Every kind of fused kernel in Triton's interpreter, forward and backward, against float64."""

from __future__ import annotations
