"""The processor that archc runs on, as a device: counted from what the system says, its memory timed."""

from __future__ import annotations

import os
import platform
import re
import time
from pathlib import Path
from typing import Any

_COPIED = 1 << 26
_USUAL_CLOCK = 2.5e9
# float32 operations that a core finishes in a cycle: two for each lane of its fused multiply-adds.
_LANES = {"avx512f": 32, "fma": 32, "asimd": 16, "neon": 16, "avx": 16}
_UNKNOWN = 8


def host() -> dict[str, Any]:
    """The fields of a `Device` but its key."""
    facts = _cpuinfo()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    flags = set(facts.get("flags", facts.get("features", "")).split())
    lanes, unit = next(((_LANES[f], f) for f in _LANES if f in flags), (_UNKNOWN, "no known vector unit"))
    clock = float(facts["cpu mhz"]) * 1e6 if facts.get("cpu mhz") else _USUAL_CLOCK
    peak = cores * clock * lanes
    half = peak * (2 if flags & {"avx512_bf16", "bf16"} else 1)
    model = facts.get("model name") or platform.processor() or platform.machine()
    return {
        "name": f"{model.strip()}, {cores} cores",
        "memory": float(_memory()),
        "bandwidth": _copy_rate(),
        "matrix": {"bfloat16": half, "float16": peak, "float32": peak},
        "vector": peak,
        "launch": 5e-6,
        "tile": 16,
        "source": f"{cores} cores at {clock / 1e9:.2f} GHz with {unit}; bandwidth timed while copying memory",
    }


def _cpuinfo() -> dict[str, str]:
    """What Linux says of the first core; nothing elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return {}
    pairs = re.findall(r"^([^:\n]*?)\s*:[ \t]*(.*)$", text, re.MULTILINE)
    return {name.lower(): value for name, value in pairs}


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 33


def _copy_rate() -> float:
    """Bytes a second, read and written, of the best of three copies."""
    source, target = bytearray(_COPIED), bytearray(_COPIED)
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        target[:] = source
        best = min(best, time.perf_counter() - start)
    return 2 * _COPIED / best
