"""Proportions of dense decoders that were trained, and papers on them: what `archc design` goes by."""

from __future__ import annotations

import math

# Vocabularies that published tokenizers are near to, each a multiple of 128.
VOCABULARIES = (32_768, 49_152, 65_536, 98_304, 131_072)
_WIDTH_STEPS = ((16384, 2048), (4096, 1024), (2048, 512), (1024, 256), (0, 128))  # from a width on
_VOCABULARY_SHARE = 0.25  # of all parameters that the table of a tied model may hold
_TIED_FROM = 1 / 6  # of all parameters that two tables would hold

MLP_RATIO = 3.5  # d_ff / d of Llama 3
MAX_SHARED = 16  # query heads that share a key and value head, at most: Llama 3 405B


def width_over_depth(parameters: float) -> float:
    """d / layers: 128 as in Llama 2 and 3 from 8B on, less below, where published models are deeper."""
    return min(128.0, 128 * math.pow(parameters / 8e9, 0.25))


def deepest_useful(width: float) -> float:
    """Layers beyond which width helps more (Levine et al. 2020, arXiv 2006.12467)."""
    return (math.log(width) - 5.039) / 0.0555


def layers_for(width: float, parameters: float) -> float:
    """The depth that goes with a width."""
    return min(width / width_over_depth(parameters), max(4.0, deepest_useful(width)))


def head_dim(width: int) -> int:
    """128 from a width of 2048 on, 64 below, where there would be too few heads."""
    return 128 if width >= 2048 else 64


def width_step(width: float) -> int:
    """What a width should be a multiple of: whole heads, and as many devices as share larger models."""
    return next(step for least, step in _WIDTH_STEPS if width >= least)


def kv_heads(heads: int) -> int:
    """8, so that as many devices hold one each; fewer where 3 or fewer would share one, more beyond 16."""
    least = 8
    while heads / least > MAX_SHARED:
        least *= 2
    fitting = [2**power for power in range(12) if 2**power <= least and heads % 2**power == 0]
    return max([count for count in fitting if heads / count >= 3], default=1)


def vocabulary(parameters: float, width: float) -> int:
    """The largest whose table is no more than a quarter of the model."""
    limit = _VOCABULARY_SHARE * parameters / width
    return max([size for size in VOCABULARIES if size <= limit], default=VOCABULARIES[0])


def ties_tables(parameters: float, width: float, vocabulary: int) -> bool:
    """Whether the table and the head should be one, as in models whose tables would be a sixth of them."""
    return 2 * vocabulary * width > _TIED_FROM * parameters


def experts_for(parameters: float) -> tuple[int, int]:
    """Experts, and how many a token takes: an eighth to a sixteenth, as many and as small as the size allows.

    128 and 8 as in Qwen3's mixtures from 10B on; finer experts lose less (Krajewski et al. 2024), but ones
    that are narrower than a tile waste it.
    """
    fitting = ((10e9, (128, 8)), (2e9, (64, 8)), (0.5e9, (32, 4)), (0.0, (16, 2)))
    return next(counts for least, counts in fitting if parameters >= least)


def rope_theta(context: int) -> int:
    """A base of rotary positions for a context: 10000, or more than 0.0424 context^1.628, in round numbers.

    Below that bound distant tokens that are alike no longer stand out (Men et al. 2024, arXiv 2405.14591).
    """
    bound = max(1e4, 0.0424 * context**1.628)
    power = 10 ** math.floor(math.log10(bound))
    return int(next(step * power for step in (1, 2, 5, 10) if step * power >= bound * 0.999))
