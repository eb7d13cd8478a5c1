"""`archc analyze`: its JSON as its page describes it, its roofline by hand, its answers to bad input."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from archc.analysis.devices import find_device
from archc.cli import main
from tests.support import ROOT, SPECS, check_refused

LLAMA = str(SPECS / "llama3.arch")
PAGE = ROOT / "docs" / "analyze.md"
_GOOD = "[x]\nmemory = 1e9\nbandwidth = 1e9\nvector = 1e9\nmatrix = { bfloat16 = 1e9 }\n"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["analyze", *arguments])


def analysed(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def keys(value: Any, prefix: str = "") -> Iterator[str]:
    """Dotted keys of all that is no object: `[]` for items of a list, `*` for keys that a model chooses."""
    if isinstance(value, list):
        for item in value:
            yield from keys(item, f"{prefix}[]")
    elif isinstance(value, dict):
        chosen = prefix in ("parameters.by_role", "memory.weights", "setting.device.matrix")
        for key, inner in value.items():
            yield from keys(inner, f"{prefix}.{'*' if chosen else key}".lstrip("."))
    else:
        yield prefix


def test_the_page_describes_every_key() -> None:
    page = PAGE.read_text().split("That of `archc diff`")[0]
    described = set(re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE))
    found = set(keys(analysed(LLAMA, "--model", "llama3_8b", "--hardware", "a100", "--context", "1000000")))
    spelled = {re.sub(r"roofline\.(prefill|decode|training_step)", "roofline.PHASE", key) for key in found}
    assert spelled == described


def test_several_models_are_a_list() -> None:
    found = analysed(str(SPECS / "gpt2.arch"))
    assert [each["model"] for each in found] == ["gpt2", "gpt2_medium", "gpt2_large", "gpt2_xl", "gpt2_tiny"]
    assert {each["setting"]["context"] for each in found} == {1024, 64}  # as many as have learned positions


def test_settings_reach_the_numbers() -> None:
    plain = analysed(LLAMA, "--model", "llama3_8b")
    other = analysed(
        LLAMA, "--model", "llama3_8b", "--set", "layers=16", "--batch", "8", "--dtype", "float32"
    )
    assert other["parameters"]["layers"][0]["count"] == 16
    token, batch = (other["kv_cache"][key] / plain["kv_cache"][key] for key in ("bytes_per_token", "bytes"))
    assert token == 1  # half as many layers, values of twice as many bytes
    assert batch == 8


def test_tables_for_people() -> None:
    result = run(LLAMA, "--model", "llama3_8b", "--batch", "512", "--hardware", "rtx4090")
    assert result.exit_code == 0
    assert "8,030,261,248" in result.output
    assert "more than the 24 GB of one NVIDIA GeForce RTX 4090" in " ".join(result.output.split())


def test_single_values() -> None:
    result = run(LLAMA, "--model", "llama3_8b", "--get", "parameters.total", "--get", "roofline.decode.bound")
    assert result.output.splitlines() == [
        "llama3_8b  parameters.total  8,030,261,248",
        'llama3_8b  roofline.decode.bound  "memory bandwidth"',
    ]


def test_decoding_waits_for_the_weights_and_prefill_for_the_matrix_units() -> None:
    """By hand: a step reads all weights but the table, and the cache; a prompt is 2 N D operations."""
    found = analysed(LLAMA, "--model", "llama3_8b", "--context", "2000", "--hardware", "h100")
    device = find_device("h100")
    weights = 2 * (8_030_261_248 - 525_336_576)
    decode, prefill = found["roofline"]["decode"], found["roofline"]["prefill"]
    assert decode["bytes"] == pytest.approx(weights + 2001 * 131_072, rel=0.003)
    assert decode["bound"] == "memory bandwidth"
    assert decode["seconds"] == pytest.approx(decode["bytes"] / device.bandwidth, rel=0.1)
    assert decode["seconds"] > decode["bytes"] / device.bandwidth
    assert prefill["bound"] == "matrix units"
    assert prefill["seconds"] > prefill["flops"] / device.matrix["bfloat16"]
    training = found["roofline"]["training_step"]
    assert training["flops"] == pytest.approx(2000 * found["flops"]["training_per_token"], rel=0.01)


def test_small_models_wait_for_launches_on_large_devices() -> None:
    found = analysed(LLAMA, "--model", "llama3_tiny", "--hardware", "h200")
    assert found["roofline"]["decode"]["bound"] == "kernel launches"


def test_the_whole_is_the_sum_of_its_kernels() -> None:
    found = analysed(LLAMA, "--model", "llama3_2_1b", "--batch", "4")
    for phase in found["roofline"].values():
        for quantity in ("seconds", "bytes", "flops"):
            assert sum(kernel[quantity] for kernel in phase["kernels"]) == pytest.approx(phase[quantity])


@pytest.mark.parametrize(
    ("specs", "said"),
    [
        (
            ("llama3.arch:llama3_8b",),
            ["linear (mlp): prefill", "matrix units: 990 TFLOP/s", "memory: 4.8 TB/s"],
        ),
        (
            ("llama3.arch:llama3_8b", "mistral.arch:mistral_7b", "gpt2.arch"),
            [
                "llama3_8b",
                "mistral_7b",
                "gpt2_xl",
                "tokens of the sequence",
                "bytes of its cache in bfloat16",
            ],
        ),
    ],
    ids=["roofline", "caches"],
)
def test_pictures_say_what_they_show(specs: tuple[str, ...], said: list[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib").rcParams["svg.fonttype"] = "none"  # text as text
    picture = tmp_path / "picture.svg"
    assert run(*(str(SPECS / spec) for spec in specs), "--plot", str(picture)).exit_code == 0
    drawn = picture.read_text()
    assert [text for text in said if text not in drawn] == []


def test_pictures_need_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run(LLAMA, "--model", "llama3_8b", "--plot", str(tmp_path / "picture.png"))
    assert result.exit_code == 1
    assert result.output.strip() == "pictures need matplotlib: pip install 'archc-compiler[analysis]'"


def test_devices_that_come_along_have_sources() -> None:
    for key in ("h200", "h100", "a100", "mi300x", "rtx4090", "cpu"):
        device = find_device(key)
        assert device.source
        assert device.matrix_peak("bfloat16") >= device.vector >= device.bandwidth / 10


@pytest.mark.parametrize("ending", ["toml", "json"])
def test_a_device_of_ones_own(ending: str, tmp_path: Path) -> None:
    table = {"memory": 1e9, "bandwidth": 1e9, "vector": 1e9, "matrix": {"bfloat16": 1e9}}
    file = tmp_path / f"devices.{ending}"
    file.write_text(json.dumps({"x": table}) if ending == "json" else _GOOD)
    found = analysed(LLAMA, "--model", "llama3_tiny", "--hardware", "x", "--hardware-file", str(file))
    given = {"key": "x", "name": "x", "launch": 0.0, "tile": 1, "source": str(file)}
    assert found["setting"]["device"] == table | given
    decode = found["roofline"]["decode"]
    assert decode["bytes"] / 1e9 < decode["seconds"] < (decode["bytes"] + decode["flops"]) / 1e9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--hardware", "h300"), "did you mean `h200`?"),
        (("--hardware", "abacus"), "known are h200, h100, a100, mi300x, rtx4090, cpu"),
        (("--hardware-file", "nowhere.toml"), "cannot read the device file nowhere.toml"),
        (("--model", "llama3_9b"), "did you mean `llama3_8b`?"),
        (("--set", "layers"), "--set takes name=value"),
        (("--get", "parameters.totel"), "did you mean `total`?"),
        (("--get", "model.total"), "llama3_tiny has no `model.total`"),
    ],
)
def test_faulty_requests(arguments: tuple[str, ...], message: str) -> None:
    result = run(LLAMA, *(() if "--model" in arguments else ("--model", "llama3_tiny")), *arguments)
    assert result.exit_code == 1
    assert message in result.output
    assert len(result.output.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--batch", "-1"), "-1 is not in the range"),
        (("--batch", "0"), "0 is not in the range"),
        (("--context", "-5"), "`-5` is no number of tokens: write 8192 or 128K"),
        (("--context", str(1 << 70)), "is no number of tokens"),
        (("--dtype", "float7"), "'float7' is not one of 'bfloat16', 'float16', 'float32'"),
    ],
)
def test_requests_that_no_model_can_meet(arguments: tuple[str, ...], message: str) -> None:
    result = run(LLAMA, "--model", "llama3_tiny", *arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_a_context_may_have_a_unit() -> None:
    assert analysed(LLAMA, "--model", "llama3_8b", "--context", "8K")["setting"]["context"] == 8192


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[x\n", "is broken"),
        ("x = 3\n", "device `x` in devices.toml: must be a table"),
        ("[x]\nmemory = 1e9\n", "bandwidth, matrix, vector missing"),
        (_GOOD.replace("1e9\nvector", "-1\nvector"), "bandwidth must be a positive number, not -1"),
        (_GOOD.replace("1e9\nvector", "'fast'\nvector"), "bandwidth must be a positive number, not 'fast'"),
        (_GOOD.replace("1e9\nvector", "inf\nvector"), "bandwidth must be a positive number"),
        (_GOOD.replace("{ bfloat16 = 1e9 }", "1e9"), "matrix must be a table"),
        (_GOOD.replace("bfloat16", "float32"), "has no figure for matrix products in bfloat16"),
        (_GOOD + "bandwith = 3\n", "unknown `bandwith`; did you mean `bandwidth`?"),
        (_GOOD + "tile = 0\n", "tile must be a positive number"),
        (_GOOD + "name = 7\n", "name and source must be strings"),
        (_GOOD.replace("[x]", "[y]"), "no device `x`"),
        ("\0", "is broken"),
    ],
)
def test_faulty_device_files(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("devices.toml").write_text(text)
    check_refused(
        run(LLAMA, "--model", "llama3_tiny", "--hardware", "x", "--hardware-file", "devices.toml"), message
    )


def test_learned_positions_bound_the_context() -> None:
    result = run(str(SPECS / "gpt2.arch"), "--model", "gpt2", "--context", "1025")
    assert result.exit_code == 1
    assert result.output.strip() == "gpt2 has learned positions for 1,024 tokens, not for 1,025"


@pytest.mark.parametrize(("heads", "group"), [(1, None), (2, 2), (6, 3), (8, 4), (25, None)])
def test_heads_are_told_to_share_only_what_their_number_allows(
    heads: int, group: int | None, tmp_path: Path
) -> None:
    spec = tmp_path / "heads.arch"
    spec.write_text(f"""import std
arch A(d = {64 * heads}, heads = {heads}) {{
  forward(tokens: [B, T]) {{
    x = embedding(tokens, 128, d) as embed
    q, k, v = split(split_heads(linear(x, 3 * d) as qkv, heads), 3)
    x = merge_heads(attention(q, k, v, mask = causal))
    return linear(x, 128) as head
  }}
}}
model a = A()
""")
    found = re.search(r"sharing them between (\d+) heads", " ".join(run(str(spec)).output.split()))
    assert (int(found[1]) if found else None) == group
