"""Every model of specs/, compiled and built once for all tests."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType

from archc.compiler import Compilation
from archc.verification.packages import import_package
from tests.support import SPECS, compile_model, read_spec

MODELS = {model: path for path in sorted(SPECS.glob("*.arch")) for model in read_spec(path).models}
TINY = [model for model in MODELS if model.endswith("_tiny")]
_FOLDER = tempfile.TemporaryDirectory()


@cache
def compiled(model: str) -> Compilation:
    return compile_model(MODELS[model], model)


@cache
def built(model: str) -> ModuleType:
    return import_package(compiled(model), Path(_FOLDER.name))
