"""Directories with a config.json, and what `archc import` makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from archc import compiler
from archc.errors import ArchcError
from archc.importer import import_model

FULL, SLIDING, LINEAR = "full_attention", "sliding_attention", "linear_attention"

# Keys of a type of models that a config must have: by its class's defaults there is no model.
REQUIRED: dict[str, dict[str, Any]] = {
    "glm4_moe": {"head_dim": 128},
    "dots1": {"n_routed_experts": 16, "num_experts_per_tok": 3, "n_shared_experts": 2},
}


def write(folder: Path, config: Any) -> Path:
    """A model directory with a config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def parameters(text: str) -> dict[str, Any]:
    """All parameters of a spec's one model, by name."""
    spec = compiler.read_spec_text(text)
    (name,) = spec.models
    return compiler.model_parameters(spec, name)  # the import itself has lowered the model


def imported(folder: Path, **config: Any) -> dict[str, Any]:
    """The parameters that a config is imported with."""
    return parameters(import_model(write(folder, config)).text)


def fault(folder: Path, **config: Any) -> str:
    """What is wrong with a config."""
    with pytest.raises(ArchcError) as error:
        import_model(write(folder, config))
    return str(error.value)
