"""The text model inside of a model of several kinds of input, such as text and images."""

from __future__ import annotations

from collections.abc import Container

from archc.interop.config import Config
from archc.interop.inert import FIXED

# Where transformers' classes, and checkpoints as they were published, hold the text model and its head.
ROOT = "language_model"

# What the outer config says of the text model as well, and before the text's own config.
_SHARED = ("quantization_config", "tie_word_embeddings", *FIXED)


def text_config(config: Config, known: Container[str]) -> tuple[Config, str]:
    """The config of what is imported, and the path before its tensors.

    Where a type is not among the `known` ones, but its config holds that of a text model, this is it.  Other
    keys of the outer config are about the parts beside it.
    """
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in known:
        return config, ""
    section = config.get("text_config")
    if not isinstance(section, dict):
        return config, ""
    shared = {key: config.get(key) for key in _SHARED if config.has(key)}
    return Config({**section, **shared}, "text_config."), ROOT
