"""What configs say of attention by latents."""

from __future__ import annotations

import math

from archc.interop.config import Config
from archc.interop.family import Known, Reader, Setting, whole


def latent(nope: int = 128, v_dim: int = 128, q_rank: int | None = 1536) -> dict[str, Reader]:
    """The parameters of its sizes, with a class's defaults; configs say null where queries have no rank."""
    return {
        "nope": whole("qk_nope_head_dim", nope),
        "rotary": whole("qk_rope_head_dim", 64),
        "v_dim": whole("v_head_dim", v_dim),
        "q_rank": Setting(
            lambda config, _known: _rank(config, q_rank),
            lambda value, _known: {"q_lora_rank": value and int(value)},
        ),
        "kv_rank": whole("kv_lora_rank", 512),
    }


# Keys that say again what follows from these.
FOLLOWING = ("qk_head_dim", "head_dim", "num_key_value_heads")


def _rank(config: Config, missing: int | None) -> int | None:
    if config.get("q_lora_rank", missing) is None:
        return None
    return config.whole("q_lora_rank", missing or 1)


def gain(_config: Config, known: Known) -> float:
    """What queries and keys are multiplied by besides, where frequencies are scaled."""
    scaling = known["rope"].scaling
    mscale = getattr(scaling, "mscale_all_dim", None)
    if not mscale:
        return 1.0
    return 0.1 * float(mscale) * math.log(scaling.factor) + 1.0
