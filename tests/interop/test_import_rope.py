"""Rotary positions of a config, and what they are in a spec."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from archc.interop.families import FAMILIES
from tests.interop.configs import FULL, REQUIRED, SLIDING, imported
from tests.support import few

# Types of models with attention by latents, of whose heads a part is rotated.
LATENT = ("deepseek", "kimi", "glm4_moe_lite", "sarvam_mla", "youtu")


@pytest.mark.parametrize(
    "kind",
    few(
        [
            kind
            for kind, family in FAMILIES.items()
            if "rope" in family.parameters
            and "local_rope" not in family.parameters
            and kind not in ("gpt_oss", "cwm", "ministral3", "phi3", "gpt_neox", "recurrent_gemma")
        ],
        6,
    ),
)
@pytest.mark.parametrize(
    ("keys", "meant"),
    [
        ({"rope_theta": 7}, "rope(theta = 7)"),
        ({"rope_parameters": {"rope_theta": 7.5, "rope_type": "default"}}, "rope(theta = 7.5)"),
        ({"rope_theta": 5, "rope_parameters": {"rope_theta": 7}}, "rope(theta = 7)"),
        ({"rope_theta": 7, "rope_scaling": None, "partial_rotary_factor": 1.0}, "rope(theta = 7)"),
        (
            {"rope_theta": 7, "rope_scaling": {"type": "linear", "factor": 2.0}},
            "rope(theta = 7, scaling = linear_scaling(factor = 2))",
        ),
        (
            {
                "rope_theta": 7,
                "max_position_embeddings": 99,
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 2,
                    "low_freq_factor": 1,
                    "high_freq_factor": 4,
                },
            },
            "rope(theta = 7, scaling = llama3(factor = 2, low = 1, high = 4, original = 99))",
        ),
        (
            {"max_position_embeddings": 99, "rope_scaling": {"type": "dynamic", "factor": 2}},
            "scaling = dynamic(factor = 2, original = 99))",
        ),
        (
            {
                "rope_scaling": {
                    "type": "yarn",
                    "factor": 4,
                    "original_max_position_embeddings": 99,
                    "finetuned": True,
                }
            },
            "scaling = yarn(factor = 4, original = 99))",
        ),
        (
            {
                "max_position_embeddings": 600,
                "original_max_position_embeddings": 150,
                "rope_parameters": {
                    "rope_type": "yarn",
                    "rope_theta": 7,
                    "factor": None,
                    "original_max_position_embeddings": 99,
                    "beta_fast": 16,
                    "beta_slow": None,
                    "truncate": False,
                    "mscale": 0.5,
                    "mscale_all_dim": 0,
                    "attention_factor": 1.5,
                },
            },
            "rope(theta = 7, scaling = yarn(factor = 4, original = 150, fast = 16, truncate = false, "
            "attention_factor = 1.5, mscale = 0.5))",
        ),
        (
            {
                "head_dim": 4,
                "max_position_embeddings": 600,
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 7,
                    "short_factor": [1, 2.5],
                    "long_factor": [3, 4],
                    "original_max_position_embeddings": 150,
                    "attention_factor": 2,
                },
            },
            "rope(theta = 7, scaling = longrope(short = [1, 2.5], long = [3, 4], original = 150, factor = 4, "
            "attention_factor = 2))",
        ),
    ],
)
def test_rotary_positions(kind: str, keys: dict[str, Any], meant: str, tmp_path: Path) -> None:
    latent = {"qk_rope_head_dim": 4} if "head_dim" in keys and kind.startswith(LATENT) else {}
    whole = (
        {"partial_rotary_factor": 1.0} if kind.startswith(("qwen3_next", "qwen3_5", "glm4")) else {}
    )  # not its class's default
    whole = {**REQUIRED.get(kind, {}), **whole}
    rope = imported(tmp_path / "x", **{"model_type": kind, **whole, **keys, **latent})["rope"]
    assert str(replace(rope, pairing="half")).endswith(meant)  # how values are paired is the class's own
    assert (rope.pairing == "interleaved") is kind.startswith(
        (*LATENT, "llama4", "ernie4_5", "cohere")
    ) or kind == "glm4"


@pytest.mark.parametrize(
    ("keys", "width"),
    [
        ({}, 64),
        ({"partial_rotary_factor": 0.5}, 128),
        ({"rope_parameters": {"rope_theta": 7, "partial_rotary_factor": 0.125}}, 32),
        ({"partial_rotary_factor": 0.5, "rope_parameters": {"rope_theta": 7}}, 128),
        ({"partial_rotary_factor": 1.0}, None),
    ],
)
def test_a_share_of_each_head_is_rotated(keys: dict[str, Any], width: int | None, tmp_path: Path) -> None:
    assert imported(tmp_path / "x", model_type="qwen3_next", **keys)["rope"].width == width


@pytest.mark.parametrize(
    ("keys", "width"),
    [
        ({}, None),
        ({"rotary_dim": 64}, 64),
        ({"rotary_dim": 64, "rope_parameters": {"rope_theta": 7, "partial_rotary_factor": 0.25}}, 32),
        ({"rotary_dim": 128}, None),
    ],
)
def test_a_number_of_values_is_rotated(keys: dict[str, Any], width: int | None, tmp_path: Path) -> None:
    assert imported(tmp_path / "x", model_type="minimax_m2", **keys)["rope"].width == width


def test_scaling_is_the_default_of_some(tmp_path: Path) -> None:
    """gpt-oss scales its frequencies where a config does not speak of them."""
    assert "factor = 32" in str(imported(tmp_path / "bare", model_type="gpt_oss")["rope"])
    given = {"rope_parameters": {"rope_type": "default", "rope_theta": 7}}
    assert str(imported(tmp_path / "x", model_type="gpt_oss", **given)["rope"]) == "rope(theta = 7)"


@pytest.mark.parametrize(
    ("keys", "local", "full"),
    [
        ({"rope_theta": 7, "rope_local_base_freq": 5}, "rope(theta = 5)", "rope(theta = 7)"),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
            "rope(theta = 10000)",
            "rope(theta = 1e+06, scaling = linear_scaling(factor = 8))",
        ),
        (
            {
                "rope_theta": 7,
                "rope_parameters": {
                    SLIDING: {"rope_type": "linear", "factor": 2, "rope_theta": 5},
                    FULL: {"rope_type": "dynamic", "factor": 4},
                },
                "max_position_embeddings": 99,
            },
            "rope(theta = 5, scaling = linear_scaling(factor = 2))",
            "rope(theta = 7, scaling = dynamic(factor = 4, original = 99))",
        ),
        ({"rope_parameters": {FULL: {"rope_theta": 7}}}, "rope(theta = 10000)", "rope(theta = 7)"),
    ],
)
def test_rotary_positions_by_layers(keys: dict[str, Any], local: str, full: str, tmp_path: Path) -> None:
    values = imported(tmp_path / "x", model_type="gemma3_text", **keys)
    assert (str(values["local_rope"]), str(values["rope"])) == (local, full)
