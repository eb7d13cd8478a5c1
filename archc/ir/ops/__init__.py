"""The ops, one file a family.  Importing this package declares them all.

elementwise     arithmetic of single numbers
functions       exp, log, sqrt, sigmoid, tanh, cos, sin, erf, softplus
activation      relu, silu, gelu
cast            casts, and numbers rounded to the dtype of what they multiply
numbers         lists of numbers as tensors
linear          linear, embedding, parameter, matmul
head_linear     a linear map for each head
norm            rms_norm, layer_norm, softmax and other reductions over the last dim
position        rope frequencies, tables and rotation, sinusoids; `scaling` beside it
attention       masks, attend
attention_total what attention's softmax divides by
key_choice      the few keys that a query sees
attention_bias  what is added to scores: ALiBi, T5's buckets, tables; the positions of pairs
weights_of_keys scores of keys and sums by other weights than attention's softmax
router          top_k, group_mask, gather
convolution     causal convolutions over tokens, `group_convolution` those that mix values
interleave      several values of each token, one after another
shift           what an earlier token has
front           learned tokens that come first in each sequence
recurrence      linear recurrences over tokens, and the state that they carry
running_maximum the largest value so far, which keeps exponential gates within floats
balance         loads of experts, averages over tokens, capacity
pooling         the first or the last token of each sequence, tokens in the opposite order
training        noise, second choices by chance, shares of experts: in training alone
experts         what `experts` becomes: sorted choices, grouped linears, their sum
absorption      weights of keys and values, applied by heads to queries and to sums
shape           split, concat, heads, slices
structure       input, constant, zeros, append, loop, experts, branch, losses
"""

from archc.ir.ops import (
    absorption,
    activation,
    attention,
    attention_bias,
    attention_total,
    balance,
    cast,
    convolution,
    elementwise,
    experts,
    front,
    functions,
    group_convolution,
    head_linear,
    interleave,
    key_choice,
    linear,
    norm,
    numbers,
    pooling,
    position,
    recurrence,
    router,
    running_maximum,
    shape,
    shift,
    structure,
    training,
    weights_of_keys,
)
from archc.ir.records import RECORDS

__all__ = [
    "RECORDS",
    "absorption",
    "activation",
    "attention",
    "attention_bias",
    "attention_total",
    "balance",
    "cast",
    "convolution",
    "elementwise",
    "experts",
    "front",
    "functions",
    "group_convolution",
    "head_linear",
    "interleave",
    "key_choice",
    "linear",
    "norm",
    "numbers",
    "pooling",
    "position",
    "recurrence",
    "router",
    "running_maximum",
    "shape",
    "shift",
    "structure",
    "training",
    "weights_of_keys",
]
