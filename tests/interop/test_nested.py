"""Models that see images: their text model is imported, and loads from the whole model's checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import PretrainedConfig

from archc.errors import ArchcError
from archc.importer import import_model
from tests.interop.parity import EPS, LOGITS, both, draw_weights, random_tokens, rope, sizes
from tests.interop.recurrent_families import QWEN3_5_EXPERTS, qwen3_5
from tests.support import SPECS, build, distance

VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def nested(kind: str, vision: str, text: dict[str, Any], **changes: Any) -> PretrainedConfig:
    seen = transformers.AutoConfig.for_model(vision, **{**VISION, **changes.pop("seen", {})})
    return transformers.AutoConfig.for_model(kind, text_config=text, vision_config=seen, **changes)


# What the names of a text model's tensors begin with in checkpoints of the whole.
TEXT = (
    "language_model.",
    "model.language_model.",
    "model.text_model.",
    "model.embed_tokens.",
    "model.layers.",
    "model.norm.",
    "lm_head.",
)

_DEEPSTACK = {
    "depth": 1,
    "out_hidden_size": 48,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0],
}

CASES: dict[str, Callable[[], PretrainedConfig]] = {
    "gemma3": lambda: nested(
        "gemma3",
        "siglip_vision_model",
        sizes(model_type="gemma3_text", rms_norm_eps=EPS, head_dim=12, sliding_window=5),
        mm_tokens_per_image=4,
    ),
    "mistral3": lambda: nested(
        "mistral3", "pixtral", sizes(model_type="mistral", rms_norm_eps=EPS, sliding_window=6)
    ),
    "llava": lambda: nested(
        "llava",
        "clip_vision_model",
        sizes(model_type="llama", rms_norm_eps=EPS),
        tie_word_embeddings=False,
    ),
    "llama4": lambda: nested(
        "llama4",
        "llama4_vision_model",
        sizes(
            model_type="llama4_text",
            rms_norm_eps=EPS,
            num_hidden_layers=4,
            head_dim=12,
            intermediate_size_mlp=40,
            num_local_experts=3,
            attention_chunk_size=6,
        ),
        seen={"vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16},
    ),
    "qwen3_5": lambda: nested(
        "qwen3_5",
        "qwen3_5_vision",
        qwen3_5(model_type="qwen3_5_text", intermediate_size=80),
        seen={"depth": 1, "out_hidden_size": 48, "num_position_embeddings": 16},
    ),
    "qwen3_5_moe": lambda: nested(
        "qwen3_5_moe",
        "qwen3_5_moe_vision",
        qwen3_5(model_type="qwen3_5_moe_text", **QWEN3_5_EXPERTS),
        seen={"depth": 1, "out_hidden_size": 48, "num_position_embeddings": 16},
    ),
    "qwen2_vl": lambda: nested(
        "qwen2_vl",
        "qwen2_vl_vision",
        sizes(model_type="qwen2_vl_text", rms_norm_eps=EPS, **rope(mrope_section=[2, 1, 1])),
        seen={"depth": 1, "embed_dim": 16, "hidden_size": 48},
        tie_word_embeddings=True,
    ),
    "qwen2_5_vl": lambda: nested(
        "qwen2_5_vl",
        "qwen2_5_vl_vision",
        sizes(
            model_type="qwen2_5_vl_text",
            rms_norm_eps=EPS,
            use_sliding_window=True,
            sliding_window=5,
            max_window_layers=1,
            **rope(mrope_section=[2, 1, 1]),
        ),
        seen={"depth": 1, "out_hidden_size": 48, "fullatt_block_indexes": [0]},
    ),
    "qwen3_vl_moe": lambda: nested(
        "qwen3_vl_moe",
        "qwen3_vl_moe_vision",
        sizes(
            model_type="qwen3_vl_moe_text",
            rms_norm_eps=EPS,
            head_dim=12,
            num_experts=5,
            num_experts_per_tok=2,
            moe_intermediate_size=20,
            mlp_only_layers=[1],
            **rope(mrope_section=[2, 2, 2], mrope_interleaved=True),
        ),
        seen=_DEEPSTACK,
    ),
    "qwen3_vl": lambda: nested(
        "qwen3_vl",
        "qwen3_vl_vision",
        sizes(
            model_type="qwen3_vl_text",
            rms_norm_eps=EPS,
            head_dim=12,
            **rope(mrope_section=[2, 2, 2], mrope_interleaved=True),
        ),
        seen=_DEEPSTACK,
    ),
    "smolvlm": lambda: nested(
        "smolvlm",
        "smolvlm_vision",
        sizes(model_type="llama", rms_norm_eps=EPS, tie_word_embeddings=True),
        tie_word_embeddings=True,
    ),
}


@pytest.fixture(scope="module", params=CASES)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A model of transformers with random weights, and the folder of its checkpoint."""
    return _saved(request.param, tmp_path_factory.mktemp(request.param))


def _saved(name: str, folder: Path) -> tuple[Any, Path]:
    model = transformers.AutoModelForImageTextToText.from_config(CASES[name]()).eval()
    model.set_experts_implementation("eager")
    draw_weights(model, torch.Generator().manual_seed(5))
    model.save_pretrained(folder / "tiny")
    return model, folder / "tiny"


def _reader(theirs: Any) -> Any:
    """What reads text: of Llama 4 the text model, since the class around it cannot do without images."""
    return theirs.language_model if theirs.config.model_type == "llama4" else theirs


@both
def test_the_text_model_of_a_whole_checkpoint(saved: tuple[Any, Path], kind: str, tmp_path: Path) -> None:
    """The same logits of text; what is saved are the checkpoint's own tensors, under their names."""
    theirs, folder = saved
    package = build(import_model(folder).text, "tiny", tmp_path)
    model = getattr(package, kind).from_pretrained(folder)
    with torch.no_grad():
        truth = _reader(theirs)(input_ids=random_tokens()).logits
        assert distance(model(random_tokens()), truth) < LOGITS
    model.save_pretrained(tmp_path / "again")
    written, whole = load_file(tmp_path / "again" / "model.safetensors"), load_file(
        folder / "model.safetensors"
    )
    assert set(written) == {name for name in whole if name.startswith(TEXT)} < set(whole)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in written.items())


def test_experts_of_which_one_tensor_holds_all(tmp_path: Path) -> None:
    """As Qwen3.5 is published, beside layers that predict further tokens."""
    theirs, folder = _saved("qwen3_5_moe", tmp_path)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for layer in range(4):
        path = f"model.language_model.layers.{layer}.mlp.experts"
        gate, up, down = (
            torch.stack([tensors.pop(f"{path}.{expert}.{name}_proj.weight") for expert in range(7)])
            for name in ("gate", "up", "down")
        )
        tensors |= {f"{path}.gate_up_proj": torch.cat([gate, up], 1), f"{path}.down_proj": down}
    save_file({**tensors, "mtp.norm.weight": torch.ones(48)}, file)
    model = build(import_model(folder).text, "tiny", tmp_path).Model.from_pretrained(folder)
    with torch.no_grad():
        assert distance(model(random_tokens()), theirs(input_ids=random_tokens()).logits) < LOGITS


def test_experts_as_qwen3_vl_is_published(tmp_path: Path) -> None:
    """Its tensors lie the other way than those that transformers writes."""
    theirs, folder = _saved("qwen3_vl_moe", tmp_path)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    turned = {name: tensor.mT.contiguous() for name, tensor in tensors.items() if ".experts." in name}
    assert len(turned) == 4
    save_file({**tensors, **turned}, file)
    model = build(import_model(folder).text, "tiny", tmp_path).Model.from_pretrained(folder)
    with torch.no_grad():
        assert distance(model(random_tokens()), theirs(input_ids=random_tokens()).logits) < LOGITS


_SEEN = {"image_token_id": 7, "vision_start_token_id": 8, "vision_config": {"depth": 1}}


@pytest.mark.parametrize(("kind", "layers"), [("qwen2_vl", 80), ("qwen2_5_vl", 3)])
def test_older_configs_hold_the_text_beside_what_it_sees(kind: str, layers: int, tmp_path: Path) -> None:
    """As these were published, without an object for the text."""
    scaling = {"type": "mrope", "mrope_section": [16, 24, 24]}
    text = {"num_hidden_layers": layers, "rope_theta": 1e6, "tie_word_embeddings": False}
    config = {"model_type": kind, **text, **_SEEN, "rope_scaling": scaling}
    inner = {"model_type": f"{kind}_text", **text, "rope_scaling": scaling}
    specs = []
    for name, values in (("flat", config), ("nested", {"model_type": kind, "text_config": inner})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(values))
        specs.append(import_model(tmp_path / name).text.replace(name, ""))
    assert specs[0] == specs[1]
    assert specs[0].endswith(") as model -> model\n")


@pytest.mark.parametrize(
    ("kind", "root"), [("smolvlm", "model -> model.text_model"), ("llava", "language_model")]
)
def test_without_a_checkpoint_the_type_knows_its_names(kind: str, root: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": kind, "text_config": {"model_type": "llama"}})
    )
    assert import_model(tmp_path).text.endswith(f") as {root}\n")


def test_a_tensor_of_the_text_that_nobody_knows_is_told(tmp_path: Path) -> None:
    """Only what lies beside the text model is left alone."""
    package = build(SPECS / "gemma3.arch", "gemma3_tiny", tmp_path)
    model = package.Model()
    model.save_pretrained(tmp_path / "saved")
    tensors = load_file(tmp_path / "saved" / "model.safetensors")
    rooted = {f"language_model.{name}": tensor for name, tensor in tensors.items()}
    extra = {"vision_tower.a": torch.ones(1), "language_model.model.b": torch.ones(1)}
    save_file({**rooted, **extra}, tmp_path / "whole.safetensors")
    text = "import gemma3\nmodel whole = Gemma3(d = 48, layers = 4, heads = 6, kv_heads = 2, head_dim = 12, "
    text += "d_ff = 80, window = 5, full_every = 3, vocab = 160) as language_model"
    whole = build(text, "whole", tmp_path)
    with pytest.raises(ValueError, match=r"1 unexpected:\n    language_model\.model\.b"):
        whole.Model.from_pretrained(tmp_path / "whole.safetensors")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"text_config": {"model_type": "fuyu"}}, "no import for models of type"),
        ({"text_config": {"model_type": "llama", "hiden_size": 3}}, '"text_config.hiden_size" is 3'),
        (
            {"text_config": {"model_type": "llama"}, "quantization_config": {"quant_method": "gptq"}},
            "quantization",
        ),
        ({"text_config": 3}, "no import for models of type"),
    ],
)
def test_what_cannot_be_imported_is_told(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava", **changes}))
    with pytest.raises(ArchcError, match=reason):
        import_model(tmp_path)


@pytest.mark.parametrize(
    ("outer", "inner", "tied"),
    [
        (None, False, False),
        (True, False, True),
        (None, None, False),
        (False, True, True),
        (False, None, False),
    ],
)
def test_either_config_ties(outer: bool | None, inner: bool | None, tied: bool, tmp_path: Path) -> None:
    assert _imports_tied(outer, inner, tmp_path) is tied


@pytest.mark.parametrize(
    ("outer", "inner"), [(None, None), (None, False), (True, None), (True, False), (False, True)]
)
@pytest.mark.parametrize("head", ["lm_head.weight", "language_model.lm_head.weight", ""])
def test_a_checkpoint_knows_what_its_configs_do_not(
    outer: bool | None, inner: bool | None, head: str, tmp_path: Path
) -> None:
    """As of LLaVA-OneVision with Qwen 2, whose outer config says false and whose inner says true."""
    tensors = {"embed": torch.ones(1), **({head: torch.ones(1)} if head else {})}
    save_file(tensors, tmp_path / "model.safetensors")
    assert _imports_tied(outer, inner, tmp_path) is not bool(head)


def _imports_tied(outer: bool | None, inner: bool | None, folder: Path) -> bool:
    """Whether a model is imported as tied whose outer and inner configs say this, None nothing."""
    said = [{} if value is None else {"tie_word_embeddings": value} for value in (outer, inner)]
    config = {"model_type": "mistral3", "text_config": {"model_type": "mistral", **said[1]}, **said[0]}
    (folder / "config.json").write_text(json.dumps(config))
    return "tied = true" in import_model(folder).text
