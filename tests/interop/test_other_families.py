"""Architectures that the compiler was never told of: a spec is all they need.

For each there is a spec under families/ whose models are held to transformers' class of that architecture.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import transformers as hf

from archc import inspection
from tests.interop.expert_families import WITH_EXPERTS
from tests.interop.parity import (
    ANGLES,
    EPS,
    EXACT,
    FAMILIES,
    ROUNDED,
    VOCABULARY,
    CloserTests,
    Pair,
    ParityTests,
    fused_by_default,
    gpt,
    ln,
    rms,
    rope,
    save_random,
    sizes,
    spec_of,
)
from tests.interop.recurrent_families import WITH_STATES
from tests.support import build, few

# Families of transformers whose classes compute in float64 from end to end, but for the angles of rotations.
IN_FLOAT64 = {
    "falcon": gpt(
        hf.FalconConfig, hidden_size=48, num_hidden_layers=3, num_attention_heads=6, alibi=False, bias=False
    ),
    "falcon_grouped": gpt(
        hf.FalconConfig,
        hidden_size=72,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_kv_heads=2,
        alibi=False,
        bias=True,
        new_decoder_architecture=True,
    ),
    "gpt_bigcode": gpt(hf.GPTBigCodeConfig, n_head=6, n_inner=80),
    "gpt_bigcode_many": gpt(hf.GPTBigCodeConfig, n_layer=2, multi_query=False),
    "jais2": ln(hf.Jais2Config),
    "nemotron": partial(hf.NemotronConfig, **sizes(norm_eps=EPS, head_dim=12)),
    "nemotron_biased": partial(
        hf.NemotronConfig,
        **sizes(num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=3),
        norm_eps=EPS,
        attention_bias=True,
        mlp_bias=True,
    ),
    "openai_gpt": gpt(hf.OpenAIGPTConfig),
    "opt": partial(
        hf.OPTConfig,
        **sizes(intermediate_size=None, num_key_value_heads=None, num_attention_heads=3),
        ffn_dim=80,
        word_embed_proj_dim=48,
    ),
    "opt_unbiased": partial(
        hf.OPTConfig,
        **sizes(intermediate_size=None, num_key_value_heads=None, num_attention_heads=4, num_hidden_layers=2),
        ffn_dim=80,
        word_embed_proj_dim=48,
        enable_bias=False,
    ),
    "persimmon": ln(hf.PersimmonConfig, num_attention_heads=3, num_key_value_heads=None),
    "phi": ln(hf.PhiConfig, num_attention_heads=3, num_key_value_heads=3),
    "phi_normed": ln(hf.PhiConfig, num_hidden_layers=2, qk_layernorm=True),
    "stablelm": ln(
        hf.StableLmConfig, hidden_size=72, intermediate_size=88, **rope(partial_rotary_factor=0.5)
    ),
    "stablelm_parallel": ln(
        hf.StableLmConfig,
        hidden_size=64,
        intermediate_size=88,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        use_qkv_bias=True,
        use_parallel_residual=True,
        **rope(partial_rotary_factor=0.25),
    ),
}

# Families whose classes compute norms, rotations or scores in float32 whatever the dtype.
IN_FLOAT32 = {
    "apertus": rms(hf.ApertusConfig, dtype="float32", **rope(12000000.0)),
    "bitnet": rms(hf.BitNetConfig),
    "codegen": gpt(hf.CodeGenConfig, n_embd=64, n_head=8, rotary_dim=6, tie_word_embeddings=False),
    "diffllama": rms(hf.DiffLlamaConfig, num_attention_heads=8, num_key_value_heads=4),
    "doge": rms(hf.DogeConfig, keep_window_size=11, **rope()),
    "dory": partial(
        hf.DoryConfig,
        **sizes(head_dim=12),
        sliding_window=5,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        initializer_range=0.5,
        ngpt_alpha_init=0.3,
        n_input_layers=1,
        n_recurrent_loops=1,
        n_output_layers=1,
    ),
    "ernie4_5": rms(hf.Ernie4_5Config, head_dim=12, use_bias=True),
    "gemma3n": partial(
        hf.Gemma3nTextConfig,
        **sizes(intermediate_size=[80] * 3, rms_norm_eps=EPS, head_dim=12),
        vocab_size_per_layer_input=VOCABULARY,
        hidden_size_per_layer_input=8,
        sliding_window=5,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        num_kv_shared_layers=1,
        laurel_rank=8,
        activation_sparsity_pattern=[0.7, 0.0, 0.0],
        altup_num_inputs=3,
        altup_active_idx=1,
        final_logit_softcapping=7.0,
    ),
    "gpt_neo": partial(
        hf.GPTNeoConfig,
        **sizes(num_hidden_layers=None, num_attention_heads=None, num_key_value_heads=None),
        num_layers=4,
        num_heads=3,
        layer_norm_epsilon=EPS,
        window_size=5,
        attention_types=[[["global", "local"], 2]],
    ),
    "gptj": gpt(hf.GPTJConfig, rotary_dim=6),
    "helium": rms(hf.HeliumConfig, head_dim=8, **rope(100000.0)),
    "hrm_text": rms(
        hf.HrmTextConfig,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=None,
        head_dim=12,
        embedding_scale=3.5,
        prefix_lm=False,
    ),
    "hyperclovax": rms(
        hf.HyperCLOVAXConfig,
        embedding_multiplier=2.5,
        residual_multiplier=0.6,
        logits_scaling=0.3,
        tie_word_embeddings=True,
    ),
    "hyperclovax_bare": rms(
        hf.HyperCLOVAXConfig,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=3,
        attention_multiplier=0.2,
        use_post_norm=False,
    ),
    "hunyuan_v1_dense": rms(hf.HunYuanDenseV1Config, head_dim=12),
    "lfm3": partial(
        hf.Lfm3Config,
        **sizes(norm_eps=EPS, head_dim=12),
        layer_types=["conv", "full_attention", "sliding_attention"],
        conv_L_cache=7,
        sliding_window=5,
    ),
    "modernbert_decoder": partial(
        hf.ModernBertDecoderConfig,
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=5,
        num_attention_heads=3,
        norm_eps=EPS,
        local_attention=10,  # twice the window
        attention_bias=True,
        mlp_bias=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    ),
    "nanochat": rms(hf.NanoChatConfig, final_logit_softcapping=7.0),
    "olmo": partial(hf.OlmoConfig, **sizes(clip_qkv=None)),
    "olmo_clipped": partial(
        hf.OlmoConfig,
        **sizes(num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=3),
        clip_qkv=1.5,
        tie_word_embeddings=True,
    ),
    "seed_oss": rms(hf.SeedOssConfig, head_dim=12, attention_out_bias=True, mlp_bias=True),
}

CASES = {**IN_FLOAT64, **IN_FLOAT32, **WITH_EXPERTS, **WITH_STATES}


def float64_distance(model: str) -> float:
    """How far apart a family's class and its package may be in float64."""
    if model not in IN_FLOAT64:
        return ROUNDED
    return ANGLES if "rotate(" in spec_of(model).read_text() else EXACT


SLOW = (
    # several kinds of layers, whose parts smaller specs have
    "deepseek_v4",
    "qwen4_exp",
    # other biases, norms and orders, in specs of which another model is held by default
    "gpt_bigcode_many",
    "hyperclovax_bare",
    "nemotron_biased",
    "olmo_clipped",
    "opt_unbiased",
    "phi_normed",
    "stablelm_parallel",
)


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in sorted(CASES)],
)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    name: str = request.param
    folder = tmp_path_factory.mktemp(name)
    theirs = save_random(CASES[name](), folder / "tiny")
    package = build(spec_of(name), name, folder)
    return Pair(theirs, folder / "tiny", package, float64_distance(name))


class TestOtherFamilies(ParityTests):
    pass


# A reference's gradients and files are PyTorch's own; tests of `archc verify` hold fused ones to them.
@fused_by_default
class TestOtherFamiliesCloser(CloserTests):
    pass


def test_every_spec_is_tested() -> None:
    assert {spec_of(name) for name in CASES} == set(FAMILIES.glob("*.arch"))


@pytest.mark.parametrize("spec", few(sorted(FAMILIES.glob("*.arch")), 12), ids=lambda path: path.stem)
def test_explain(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`archc explain` tells what was fused or not, also attention or states, and names only the spec."""
    inspection.explain(spec, None, "cuda", ())
    told = capsys.readouterr().out
    assert "attention" in told or "decoding carries" in told
    assert "loop_edge: `x`" in told or "x = x + " not in spec.read_text()  # layers that end in no sum
    assert "the compiler's own" not in told
