"""The spec that `archc design` writes: a model, and why each of its sizes is what it is."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator

from archc.analysis import proportions as rules
from archc.analysis.laws import conditional
from archc.analysis.laws.chinchilla import EPOCH, FLOPS_PER_PARAMETER
from archc.analysis.laws.conditional import RATIOS, SMALL
from archc.analysis.laws.hyperparameters import step_law
from archc.exploration.designer import Design
from archc.quantities import quantity_text, with_unit

_WIDTH = 110


def proposal(design: Design) -> str:
    """The text of a spec file, in the layout of `archc fmt`."""
    lines = [
        *_comment("", *_summary(design)),
        "",
        f"import {design.shape.spec}",
        "",
        f"model {design.request.name} = {design.shape.arch}(",
        *(
            line
            for reasons, arguments in _arguments(design)
            for line in (*_comment("  ", reasons), arguments)
        ),
        ")",
    ]
    return "\n".join([*lines, ""])


def _comment(indent: str, *paragraphs: str) -> Iterator[str]:
    for number, paragraph in enumerate(paragraphs):
        if number:
            yield f"{indent}#"
        yield from textwrap.wrap(
            paragraph,
            _WIDTH,
            initial_indent=f"{indent}# ",
            subsequent_indent=f"{indent}# ",
            break_on_hyphens=False,
        )


def _summary(design: Design) -> Iterator[str]:
    analysis, request = design.analysis, design.request
    counts, cache = analysis.parameters, analysis.kv_cache
    yield (
        f"{_kind(design)} of {counts.total:,} parameters, {counts.non_embedding:,} of them outside of tables,"
        f" for {request.context:,} tokens of context.  Proposed by `archc design`."
    )
    yield _training(design)
    yield _experts(design) if design.shape.experts else _shape_by_law(design)
    decode = analysis.roofline.decode
    rate = f", and at most {decode.tokens_per_second:,.0f} tokens a second for one sequence" if decode else ""
    yield (
        f"On one {request.device.name}: {with_unit(2 * counts.total, 'B')} of weights in bfloat16, "
        f"{with_unit(cache.bytes, 'B')} of cache for a full context, {cache.bytes_per_token:,} a token{rate}."
    )
    yield from analysis.notes


def _training(design: Design) -> str:
    counts = design.analysis.parameters
    tokens = design.request.tokens or EPOCH.tokens_for(counts.active)
    flops = FLOPS_PER_PARAMETER * counts.active * tokens
    if design.shape.experts:
        dense = EPOCH.loss(counts.active, tokens)
        return (
            f"Trained on {quantity_text(tokens)} tokens ({quantity_text(flops)} FLOPs): a loss below the "
            f"{dense:.2f} nats that Epoch's Chinchilla fit gives a dense model of what a token uses."
        )
    reason = "" if design.request.tokens else ", for which this size is the best that its compute buys"
    found = step_law(counts.non_embedding, tokens)
    return (
        f"Trained on {quantity_text(tokens)} tokens{reason} ({quantity_text(flops)} FLOPs): a loss of about "
        f"{EPOCH.loss(counts.total, tokens):.2f} nats by Epoch's Chinchilla fit.  By Step Law a peak "
        f"learning rate of {found.learning_rate:.1e}, and batches of {quantity_text(found.batch_tokens)} "
        "tokens."
    )


def _kind(design: Design) -> str:
    return "A mixture of experts" if design.shape.experts else "A dense decoder"


def _experts(design: Design) -> str:
    counts, shape = design.analysis.parameters, design.shape
    return (
        f"A token uses {counts.active:,} parameters, {counts.active / counts.total:.1%} of them.  Routed "
        "laws of loss are of models with other numbers of experts: Krajewski et al. (2024) have 64 times the "
        f"parameters of one MLP, this {shape.experts / shape.choices:.0f} times."
    )


def _shape_by_law(design: Design) -> str:
    counts = design.analysis.parameters
    x = design.shape.d / math.sqrt(counts.non_embedding)
    r = counts.by_role["mlp"] / counts.by_role["attention"]
    best_x, best_r = SMALL.optimum
    shape = f"Width over the root of N is {x:.4f}, MLP over attention parameters {r:.2f}"
    if r not in RATIOS:
        return f"{shape}, where the conditional law of Bian et al. (2025) was not fitted."
    excess = SMALL.multiplier(x, r) - 1
    doubt = ", extrapolated" if list(conditional.warnings(counts.non_embedding, None)) else ""
    return (
        f"{shape}: a loss {excess:.2%} above that of the best shape, {best_x:.3f} and {best_r:.2f}, by the "
        f"conditional law of Bian et al. (2025{doubt}).  Published models pay that for a smaller cache and "
        "less attention to compute."
    )


def _arguments(design: Design) -> Iterator[tuple[str, str]]:
    """Lines of arguments, each with its reasons."""
    shape = design.shape
    yield _depth(design), f"  d = {shape.d}, layers = {shape.layers},"
    yield _heads(design), f"  heads = {shape.heads}, head_dim = {shape.head_dim},"
    yield _kv_heads(design), f"  kv_heads = {shape.kv_heads},"
    if shape.experts:
        yield _expert_counts(design), f"  experts = {shape.experts}, choices = {shape.choices},"
    yield _d_ff(design), f"  d_ff = {shape.d_ff},"
    yield _vocabulary(design), f"  vocab = {shape.vocabulary},"
    yield _tied(design), f"  tied = {str(shape.tied).lower()},"
    yield _positions(design), f"  rope = rope(theta = {shape.theta}),"


def _depth(design: Design) -> str:
    shape, counts = design.shape, design.analysis.parameters
    deepest = rules.deepest_useful(shape.d)
    aim = min(rules.width_over_depth(counts.active), shape.d / 4)
    text = (
        f"{shape.d / shape.layers:.0f} of width for each layer.  Models of this size have about {aim:.0f} "
        "(Llama 2 and 3: 128 from 8B on; smaller ones are deeper)."
    )
    if deepest > 4:
        text += f"  Beyond {deepest:.0f} layers of this width, more width helps more (Levine et al. 2020)."
    step = rules.width_step(shape.d)
    return f"{text}  A multiple of {step}."


def _heads(design: Design) -> str:
    shape = design.shape
    reason = (
        "the widest that attention kernels are best at"
        if shape.head_dim == 128
        else "so that there are enough"
    )
    return f"Heads of {shape.head_dim}, {reason}; together as wide as the stream."


def _kv_heads(design: Design) -> str:
    shape, analysis = design.shape, design.analysis
    group = shape.heads // shape.kv_heads
    text = f"{group} query heads share one.  "
    if shape.kv_heads >= 8:
        return f"{text}Up to {shape.kv_heads} devices hold at least one each."
    share = analysis.kv_cache.bytes / analysis.memory.weights["bfloat16"]
    if share > 1 or shape.kv_heads < rules.kv_heads(shape.heads):
        return (
            f"{text}The cache of a full context takes {share:.2f} times what weights take; more heads, more."
        )
    return f"{text}A power of two, so that devices can divide them."


def _expert_counts(design: Design) -> str:
    shape = design.shape
    return (
        f"Finer experts lose less (Krajewski et al. 2024): as many as stay wider than a tile.  A token takes "
        f"{shape.choices} of them; each of {shape.experts} devices, or fewer, can hold as many as any other."
    )


def _d_ff(design: Design) -> str:
    shape = design.shape
    if shape.experts:
        return (
            f"Of one expert; those of a token are {shape.mlp_ratio:.2f} d together.  What is left of the "
            f"parameters asked for; Qwen3's have 3.  A multiple of {64 if shape.d_ff % 128 else 128}."
        )
    step = next(step for step in (256, 128) if shape.d_ff % step == 0)
    return (
        f"{shape.d_ff / shape.d:.2f} d: what is left of the parameters asked for; Llama 3 has "
        f"{rules.MLP_RATIO}.  A multiple of {step}, for the tiles of matrix products."
    )


def _vocabulary(design: Design) -> str:
    shape = design.shape
    share = shape.vocabulary * shape.d / design.analysis.parameters.total
    if design.request.vocabulary:
        asked = design.request.vocabulary
        padded = f"{asked:,} rounded up to a multiple of 128" if asked != shape.vocabulary else "As asked for"
        return f"{padded}; its table is {share:.1%} of the model."
    return (
        f"Its table is {share:.1%} of the model; a quarter is the most that was allowed.  Put your "
        "tokenizer's here, rounded up to a multiple of 128."
    )


def _tied(design: Design) -> str:
    shape = design.shape
    share = 2 * shape.vocabulary * shape.d / design.request.parameters
    return f"Two tables would be {share:.0%} of the model, {'more' if shape.tied else 'less'} than a sixth."


def _positions(design: Design) -> str:
    context = design.request.context
    return (
        f"{context:,} tokens need a base of at least {max(1e4, 0.0424 * context**1.628):,.0f} "
        "(Men et al. 2024, 0.0424 tokens^1.628, and never less than 10000)."
    )
