"""The ops, one file a family.  Importing this package declares them all.

elementwise   arithmetic, activations, casts
linear        linear, embedding, parameter, matmul
norm          rms_norm, layer_norm, softmax and other reductions over the last dim
position      rope frequencies, tables and rotation, sinusoids; `scaling` beside it
attention     masks, attend
shape         split, concat, heads, slices
structure     input, constant, zeros, append, loop
"""

from archc.ir.ops import attention, elementwise, linear, norm, position, shape, structure
from archc.ir.records import RECORDS

__all__ = ["RECORDS", "attention", "elementwise", "linear", "norm", "position", "shape", "structure"]
