"""GPT-NeoX and Pythia, whose configs have names of their own for rotary positions."""

from typing import Any

from archc.interop.config import Config
from archc.interop.family import Family, Known, Setting, activation, flag, layers, number, whole
from archc.interop.rope import partly_rotary

_ROTARY = partly_rotary(
    theta=10000.0, context=2048, share=0.25, base_key="rotary_emb_base", share_key="rotary_pct"
)


def _with_head_dim(known: Known) -> Known:
    return {**known, "head_dim": max(1, known["d"] // known["heads"])}


def _rope(config: Config, known: Known) -> Any:
    return _ROTARY.read(config, _with_head_dim(known))


def _write_rope(rope: Any, known: Known) -> Any:
    return _ROTARY.write(rope, _with_head_dim(known))


GPT_NEOX = Family(
    model_type="gpt_neox",
    spec="gpt_neox",
    arch="GPTNeoX",
    architectures=("GPTNeoXForCausalLM",),
    parameters={
        "d": whole("hidden_size", 6144),
        "layers": layers("num_hidden_layers", 44),
        "heads": whole("num_attention_heads", 64),
        "d_ff": whole("intermediate_size", 24576),
        "vocab": whole("vocab_size", 50432),
        "eps": number("layer_norm_eps", 1e-5),
        "rope": Setting(_rope, _write_rope),
        "act": activation("hidden_act", "gelu"),
        "parallel": flag("use_parallel_residual", True),
        "attention_bias": flag("attention_bias", True),
        "tied": flag("tie_word_embeddings", False),
    },
    inert=(
        "hidden_dropout",  # for training
        "classifier_dropout",
        "rope_theta",  # what transformers 4 wrote besides, and no class reads
        "partial_rotary_factor",
    ),
)
