"""One softmax over several sets of keys, at random: by windows, of learned keys, of sinks."""

from __future__ import annotations

from tests.random_specs.heads import Heads, behind, keys_and_values, positioned, some_heads
from tests.random_specs.writer import Writer


def joined(w: Writer, x: str, d: int, mask: str, variable: str | None) -> str:
    """Attention whose keys are of two kinds or three, from [B, T, d] to [B, T, d]."""
    heads = some_heads(w)
    scale = w.choose(f"{heads.width} ** -0.5", "0.3")
    q = w.let(f"split_heads({w.linear(x, heads.queries * heads.width, 'q')}, {heads.queries})", "q")
    k, v = keys_and_values(w, x, heads)
    q, k = positioned(w, q, k, variable)
    results, totals = _attended(w, q, k, v, mask, scale)
    kind = w.choose("window", "window", "learned", "all")
    if kind in ("window", "all"):
        other_k, other_v = keys_and_values(w, x, heads)
        more = _attended(w, q, other_k, other_v, w.choose("causal", "sliding(2)", "chunked(3)"), scale)
        results, totals = results + more[0], totals + more[1]
    if kind in ("learned", "all"):
        more = _learned(w, q, heads, scale)
        results, totals = results + more[0], totals + more[1]
    if w.chance(0.5):
        totals = [*totals, w.parameter(str(heads.queries), 0.5, "sinks")]
    o = w.let(f"combined([{', '.join(results)}], [{', '.join(totals)}])", "o")
    return behind(w, x, d, heads, o)


def _attended(w: Writer, q: str, k: str, v: str, mask: str, scale: str) -> tuple[list[str], list[str]]:
    """The result of attention and its total, with a bias, a softcap, both or neither."""
    settings = f"mask = {mask}, scale = {scale}"
    if w.chance(0.2):
        settings += f", softcap = {w.choose('2.5', '30')}"
    if w.chance(0.3):
        query, key = w.new("query"), w.new("key")
        w.write(f"{query}, {key} = pairs({q})")
        settings += f", bias = {w.let(f'-0.1 * upcast({query} - {key})', 'bias')}"
    o = w.let(f"attention({q}, {k}, {v}, {settings})", "o")
    return [o], [w.let(f"attention_total({q}, {k}, {settings})", "total")]


def _learned(w: Writer, q: str, heads: Heads, scale: str) -> tuple[list[str], list[str]]:
    """The same for keys that are not of any token."""
    count = w.choose(2, 3)
    k, v = (
        w.let(f"parameter([{heads.queries}, {count}, {width}]) as {w.new('learned')}", word)
        for word, width in (("k", heads.width), ("v", heads.value_width))
    )
    scores = w.let(f"squeeze(matmul({k}, unsqueeze({q}))) * {scale}", "scores")
    o = w.let(f"squeeze(matmul(transpose({v}), unsqueeze(softmax({scores}))))", "o")
    return [o], [w.let(f"squeeze(logsumexp({scores}))", "total")]
