"""GGUF files against transformers' own reader of them."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from archc.errors import ArchcError
from archc.interop.gguf import convert
from tests.support import SPECS, build

D, HEADS, KV_HEADS, D_FF, LAYERS, VOCABULARY = 64, 4, 2, 96, 2, 50


def write_gguf(path: Path, tied: bool = True, architecture: str = "llama", extra: str = "") -> None:
    """A file of random tensors, the wide ones quantised to eight bits."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_embedding_length(D)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_feed_forward_length(D_FF)
    writer.add_vocab_size(VOCABULARY)
    writer.add_context_length(128)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"t{number}" for number in range(VOCABULARY)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    shapes = {"token_embd.weight": (VOCABULARY, D), "output_norm.weight": (D,)}
    if not tied:
        shapes["output.weight"] = (VOCABULARY, D)
    if extra:
        shapes[extra] = (D,)
    for layer in range(LAYERS):
        shapes |= {
            f"blk.{layer}.attn_norm.weight": (D,),
            f"blk.{layer}.attn_q.weight": (D, D),
            f"blk.{layer}.attn_k.weight": (D * KV_HEADS // HEADS, D),
            f"blk.{layer}.attn_v.weight": (D * KV_HEADS // HEADS, D),
            f"blk.{layer}.attn_output.weight": (D, D),
            f"blk.{layer}.ffn_norm.weight": (D,),
            f"blk.{layer}.ffn_gate.weight": (D_FF, D),
            f"blk.{layer}.ffn_up.weight": (D_FF, D),
            f"blk.{layer}.ffn_down.weight": (D, D_FF),
        }
    generator = np.random.default_rng(0)
    kind = gguf.GGMLQuantizationType.Q8_0
    for name, shape in shapes.items():
        values = generator.standard_normal(shape, dtype=np.float32)
        if len(shape) == 2:
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def loaded_by_transformers(path: Path) -> LlamaForCausalLM:
    """The model as transformers reads it; its `from_pretrained` would want another package for that."""
    config = LlamaConfig(**load_gguf_checkpoint(path)["config"])
    model = LlamaForCausalLM(config).eval()
    tensors = load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)["tensors"]
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert unexpected == []
    assert missing == (["lm_head.weight"] if config.tie_word_embeddings else [])
    model.tie_weights()
    return model


@pytest.mark.parametrize("tied", [True, False])
def test_tensors_and_logits_are_those_of_transformers(tied: bool, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", tied)
    convert(tmp_path / "tiny.gguf", tmp_path / "tiny")
    theirs = loaded_by_transformers(tmp_path / "tiny.gguf")
    ours = load_file(tmp_path / "tiny" / "model.safetensors")
    assert ("lm_head.weight" in ours) is not tied
    state = theirs.state_dict()
    for name, tensor in ours.items():
        assert torch.equal(tensor, state[name]), name
    sizes = {
        "d": D,
        "layers": LAYERS,
        "heads": HEADS,
        "kv_heads": KV_HEADS,
        "d_ff": D_FF,
        "vocab": VOCABULARY,
    }
    settings = {name: str(value) for name, value in sizes.items()} | {"tied": str(tied).lower()}
    package = build(SPECS / "smollm2.arch", "smollm2_tiny", tmp_path, settings)
    model = package.Model.from_pretrained(tmp_path / "tiny")
    tokens = torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-4)


def test_other_architectures_and_unknown_tensors_are_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "other.gguf", architecture="mamba")
    with pytest.raises(ArchcError, match="not of `mamba`"):
        convert(tmp_path / "other.gguf", tmp_path / "out")
    write_gguf(tmp_path / "extra.gguf", extra="blk.0.attn_extra.weight")
    with pytest.raises(ArchcError, match="attn_extra"):
        convert(tmp_path / "extra.gguf", tmp_path / "out")
    assert not (tmp_path / "out" / "model.safetensors").exists()
