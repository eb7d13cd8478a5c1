"""Keys that are chosen for each query, at random: by scores of an indexer, by positions, or by both."""

from __future__ import annotations

from tests.random_specs.writer import Writer


def some_choice(w: Writer, x: str, k: str, mask: str, same_tokens: bool = True) -> str:
    """Places of keys [B, T, count] for the tokens of x, of which each can see one or more.

    `same_tokens`: keys are of the tokens of x, not of another sequence.
    """
    chosen = w.let(_scored(w, x, k, mask, same_tokens), "chosen")
    if w.chance(0.2):  # some keys twice
        chosen = w.let(f"concat({chosen}, {_scored(w, x, k, mask, same_tokens)})", "chosen")
    return chosen


def best_of_heads(w: Writer, x: str, q: str, k: str, choosers: int) -> str:
    """Places of keys [B, T, choosers, count] by scores of heads q for keys k, of single keys or of blocks."""
    size = w.choose(1, 1, 2, 3)
    scores = f"attention_scores({q}, {k}, wide = true)"
    if w.chance(0.3):  # by each key alone, the same for all queries
        score = w.let(f"split_heads({w.linear(x, choosers, 'score')}, {choosers})", "score")
        one = w.let(f"upcast(ones({score}))", "one")
        scores = f"attention_scores({one}, upcast({score}), scale = 1, wide = true)"
    if w.chance(0.5):  # the own block always
        key = w.new("key")
        w.write(f"_, {key} = pairs({x})")
        query = f"unsqueeze(unsqueeze(positions({x})))"
        apart = f"whole_quotient({query}, {size}) - whole_quotient({key}, {size})"
        scores = f"{scores} + 1e4 * (1 - step(upcast({apart})))"
    seen = w.let(f"masked({scores}, {k}, causal)", "scores")
    return f"best_keys({seen}, {k}, count = {w.choose(1, 2, 64)}, size = {size})"


def _scored(w: Writer, x: str, k: str, mask: str, same_tokens: bool) -> str:
    """The best by narrow queries, and by keys of their own or a part of attention's."""
    heads, width = w.choose(1, 2, 3), w.choose(2, 4)
    turn = w.choose("rope(100)", "rope(10000, pairing = interleaved)")  # so that no two keys are equal
    q = w.let(f"split_heads({w.linear(x, heads * width, 'index_q')}, {heads})", "q")
    if same_tokens and w.chance(0.7):
        k = w.let(f"split_heads({w.linear(x, width, 'index_k')}, 1)", "k")
    else:
        k = w.let(f"split_heads(slice(merge_heads({k}), 0, {width}), 1)", "k")
    q, k = w.let(f"rotate({q}, {turn})", "q"), w.let(f"rotate({k}, {turn})", "k")
    weights = w.linear(x, heads, "weights")
    weights = w.choose(weights, f"upcast({weights})", f"sigmoid({weights})")
    return f"chosen_keys({q}, {k}, {weights}, {w.choose(1, 2, 4, 64)}, mask = {mask})"
