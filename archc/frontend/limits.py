"""Bounds on what a spec may ask for, so that none can hang the compiler or exhaust memory.

Each is far beyond any published architecture; docs/language.md lists them.
"""

from __future__ import annotations

MAX_SOURCE = 1 << 18  # characters of a spec
MAX_NAME = 100  # characters of a name or of a path segment
MAX_NESTING = 100  # how deep brackets, expressions and statements lie in one another
MAX_IMPORTS = 100  # specs that one spec brings in, directly or through others
MAX_MODELS = 200  # models of a spec
MAX_INTEGER = 1 << 63  # the absolute value of a whole number
MAX_LIST = 10_000  # items of a list with those of lists in it, and iterations of a loop
MAX_LOOP_STEPS = 10_000  # computations between a loop variable and a value that follows it
MAX_LOOP_CHAIN = 200  # of these computations one after another
MAX_STEPS = 1_000_000  # evaluated expressions and traced iterations, over all models of a spec
NODE_STEPS = 20  # what an op added to a graph counts as
CALL_STEPS = 20  # what the call of a block counts as, besides what is in it
MAX_NODES = 10_000  # ops of a model; a loop's body counts once for each different iteration
MAX_BLOCK_DEPTH = 40  # blocks called inside of one another
MAX_REENTRY = 8  # times that a block is entered inside of itself
MAX_LOOP_DEPTH = 8  # loops inside of one another
MAX_REGION_DEPTH = 1  # `experts` inside of one another
MAX_PATH = 40  # segments of a parameter path
MAX_WEIGHTS = 200_000  # parameter tensors of a model
MAX_WEIGHT_ELEMENTS = 1 << 48  # elements of a parameter tensor
MAX_FUSION_STEPS = 16  # ops of a fusion's decomposition
MAX_FUSION_SUMS = 8  # sums and products among them, whose operands are tried in both orders
