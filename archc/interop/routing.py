"""What configs say of experts, and which of their keys matter to training alone."""

from __future__ import annotations

from typing import Any

from archc.interop.config import Config
from archc.interop.family import Known, Reader, Setting, Value

MAX_EXPERTS = 10_000

# Losses and noise that balance the experts' loads, in families whose specs have none.
ROUTER_TRAINING = ("output_router_logits", "router_aux_loss_coef", "router_jitter_noise")

# Layers for training that checkpoints hold after the last.
TRAINING_LAYERS = ("num_nextn_predict_layers", "num_mtp_layers")

# The router of DeepSeek-V3's experts, in families that have these after some dense layers.
BIASED_SIGMOIDS: dict[str, tuple[tuple[Any, ...], str]] = {
    "scoring_func": (("sigmoid",), "as in the class"),
    "topk_method": (("noaux_tc",), "as in the class"),
    "moe_layer_freq": ((1,), "since all layers after the dense ones have experts"),
}


def factor_or_none(key: str, missing: float) -> Reader:
    """A factor above 0; none for 0, which leaves out what it would multiply."""

    def read(config: Config, _known: Known) -> float | None:
        value = config.get(key, missing)
        return None if value == 0 and not isinstance(value, bool) else config.number(key, missing)

    return Setting(read, lambda value, _known: {key: 0.0 if value is None else float(value)})


def balance(missing: float) -> Reader:
    """The factor of the loss that keeps loads even; none where the class is not told to compute it."""

    coefficient = factor_or_none("router_aux_loss_coef", missing)

    def read(config: Config, known: Known) -> Value:
        factor = coefficient(config, known)
        return factor if config.flag("output_router_logits", False) else None

    def write(value: float | None, _known: Known) -> dict[str, Any]:
        told = {} if value is None else {"router_aux_loss_coef": float(value)}
        return {"output_router_logits": value is not None, **told}

    return Setting(read, write)


def experts(key: str, missing: int, *older: str) -> Reader:
    """How many experts there are, under one of the names that versions of transformers write."""

    def read(config: Config, _known: Known) -> int:
        present = [name for name in (key, *older) if config.get(name) is not None]
        return config.whole(present[0] if present else key, missing, most=MAX_EXPERTS)

    return Setting(read, lambda value, _known: {} if value is None else {key: int(value)})


def kept_groups(missing: int) -> Reader:
    """How many groups of experts a token chooses among."""

    def read(config: Config, known: Known) -> int:
        return config.whole("topk_group", min(missing, known["groups"]), most=known["groups"])

    return Setting(read, lambda value, _known: {"topk_group": int(value)})


def choices(key: str, missing: int) -> Reader:
    """How many of the experts a token chooses."""

    def read(config: Config, known: Known) -> int:
        usual = min(missing, known["experts"])
        return config.whole(key, usual, null=usual, most=known["experts"])

    return Setting(read, lambda value, _known: {key: int(value)})


def dense_layers(missing: int) -> Reader:
    """How many layers, from the first, have no experts."""
    key = "first_k_dense_replace"
    return Setting(
        lambda config, _known: config.whole(key, missing, least=0), lambda value, _known: {key: int(value)}
    )
