"""The text model inside of a model of several kinds of input, such as text and images."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from archc.interop.config import Config
from archc.interop.inert import FIXED
from archc.interop.spec import root_text

# Where checkpoints hold the text model: all of it, or but for the head, what it calls `model` by itself.
_WHOLE = "language_model"
_BODIES = ("model.language_model", "model.text_model")
# Both lie beside each other, as in a model of text alone.
_BESIDE = "model"
# Types of models whose checkpoints have the latter.
_BODY_OF = {
    **dict.fromkeys(("deepseek_vl", "fast_vlm", "janus", "lighton_ocr", "ovis2"), _BODIES[0]),
    **dict.fromkeys(("perception_lm", "qwen3_5", "qwen3_5_moe", "qwen3_vl", "qwen3_vl_moe"), _BODIES[0]),
    **dict.fromkeys(("idefics2", "idefics3", "smolvlm"), _BODIES[1]),
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl"), _BESIDE),
}

# Types of models whose older configs hold the text's keys beside those of what it sees -> the text's type.
_FLAT = {"qwen2_vl": "qwen2_vl_text", "qwen2_5_vl": "qwen2_5_vl_text"}

# What the outer config says of the text model as well, and before the text's own config.
_SHARED = ("quantization_config", *FIXED)
_TIED = "tie_word_embeddings"
_HEADS = ("lm_head.weight", f"{_WHOLE}.lm_head.weight")


def text_config(config: Config, known: Container[str]) -> tuple[Config, str]:
    """The config of what is imported, and what `as` says of its tensors.

    Where a type is not among the `known` ones, but its config holds that of a text model, this is it.  Other
    keys of the outer config are about the parts beside it.
    """
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in known:
        return config, ""
    section = config.get("text_config")
    if section is None and str(kind) in _FLAT:
        flat = Config({**config.without("text_config", "vision_config"), "model_type": _FLAT[str(kind)]})
        flat.tensors = config.tensors
        return flat, _root(config)
    if not isinstance(section, dict):
        return config, ""
    shared = {key: config.get(key) for key in _SHARED if config.has(key)}
    inner = Config({**section, **shared, **_tied(config, section)}, "text_config.")
    inner.tensors = config.tensors
    return inner, _root(config)


def _root(config: Config) -> str:
    """What `as` says of the text model: a checkpoint knows where its tensors lie, without one its type."""
    if config.tensors is None:
        place = _BODY_OF.get(str(config.get("model_type")), _WHOLE)
    else:
        place = next(filter(config.has_tensor, (*_BODIES, _WHOLE, _BESIDE)), _WHOLE)
    return _WHOLE if place == _WHOLE else root_text(place, "model")


def _tied(config: Config, section: Mapping[str, Any]) -> dict[str, Any]:
    """Whether the head is the embeddings' table, where both configs may say it, or neither.

    Some classes heed the outer one alone, others either: where they do not agree, a checkpoint knows.
    """
    outer, inner = config.get(_TIED), section.get(_TIED)
    if config.tensors is not None and (outer is None or outer != inner):
        return {_TIED: all(map(config.lacks_tensor, _HEADS))}
    given = [value for value in (outer, inner) if value is not None]
    return {_TIED: next(filter(None, given), given[0])} if given else {}
