"""docs/claims.md: its outputs are what the commands print, its figures follow from them.

`python -m tests.analysis.test_claims_page` writes the outputs again.
"""

from __future__ import annotations

import re

import pytest

from tests.analysis.test_scaling_page import RUN, main_, printed
from tests.support import ROOT

PAGE = ROOT / "docs" / "claims.md"
TEXT = PAGE.read_text()
RUNS = RUN.findall(TEXT)


@pytest.mark.parametrize(("command", "expected"), RUNS, ids=[command for command, _ in RUNS])
def test_commands_print_what_the_page_shows(command: str, expected: str) -> None:
    assert printed(command) == expected, "run `python -m tests.analysis.test_claims_page`"


def test_figures_follow_from_the_outputs() -> None:
    """Those in bold, computed from what the commands of their section printed."""
    seven, one, three, latent = (_printed_in(name) for name in ("called 7B", "smallest", "MLP to", "latent"))
    total, plain, cache = "parameters.total", "parameters.non_embedding", "kv_cache.bytes_per_token"
    ratios = [
        three[model, "parameters.by_role.mlp"] / three[model, "parameters.by_role.attention"]
        for model in ("llama3_2_1b", "llama3_2_3b")
    ]
    less = latent["llama2_7b", cache] / latent["deepseek_v3", cache]
    assert re.findall(r"\*\*(.+?)\*\*", TEXT) == [
        f"{14.8e12 / 20 / 1e9:.0f}B",
        f"{seven['olmo2_7b', cache] / seven['mistral_7b', cache]:.0f}",
        f"{(seven['olmo2_7b', total] - seven['llama2_7b', total]) / 1e6:.0f}M",
        f"{one['olmo2_1b', total] / 1e9:.2f}B",
        f"{one['olmo2_1b', plain] / 1e9:.2f}B",
        f"{ratios[1]:.2f}",
        f"{less:.1f}",
        f"{100 / less:.2f} %",
    ]
    assert f"{ratios[0]:.2f}" == "4.80"


def _printed_in(name: str) -> dict[tuple[str, str], int]:
    """What was printed in the section whose heading has a name, by model and key."""
    (section,) = [part for part in TEXT.split("\n## ") if name in part.partition("\n")[0]]
    rows = re.findall(r"^(\w+)  ([\w.]+)  ([\d,]+)$", section, re.MULTILINE)
    return {(model, key): int(value.replace(",", "")) for model, key, value in rows}


if __name__ == "__main__":
    main_(PAGE)
