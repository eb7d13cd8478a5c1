"""What configs say of experts, and which of their keys matter to training alone."""

from __future__ import annotations

from archc.interop.config import Config
from archc.interop.family import Known, Reader, Setting

MAX_EXPERTS = 10_000

# Losses and noise that balance the experts' loads.
ROUTER_TRAINING = ("output_router_logits", "router_aux_loss_coef", "router_jitter_noise")


def experts(key: str, missing: int, *older: str) -> Reader:
    """How many experts there are, under one of the names that versions of transformers write."""

    def read(config: Config, _known: Known) -> int:
        present = [name for name in (key, *older) if config.get(name) is not None]
        return config.whole(present[0] if present else key, missing, most=MAX_EXPERTS)

    return Setting(read, lambda value, _known: {key: int(value)})


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
