"""Names that stand for nothing, and what was likely meant."""

from __future__ import annotations

from archc.errors import NEAR, did_you_mean
from archc.frontend import mistakes, syntax
from archc.frontend.values import Env

SLIP = 0.85  # of names that differ by a slip of the pen, as `NEAR`

# What other languages call what this one has, or has not.
_ELSEWHERE = {
    "True": "write `true`",
    "False": "write `false`",
    "None": "write `none`",
    "yes": "write `true`",
    "no": "write `false`",
    "null": "write `none`",
    "range": "a range is written `0..n`",
    "zeros": "write `0 * x`, or `init = fill(0)` for a parameter",
    "clip": "write `clamp(x, low, high)`",
    **dict.fromkeys(("cat", "stack"), "write `concat(x, y)`, side by side along the last dim"),
    **dict.fromkeys(("chunk", "unbind"), "write `split(x, parts)`"),
    **dict.fromkeys(("view", "reshape", "flatten", "permute"), "`split_heads` and `merge_heads` shape heads"),
    **dict.fromkeys(("where", "masked_fill"), "`step(x)` is 1 where x > 0, else 0: a factor"),
    **dict.fromkeys(("conv1d", "short_conv"), "`CausalConv(x, taps)` of std: write `import std`"),
    **dict.fromkeys(
        ("selective_scan", "ssm", "ssd", "mamba"),
        "write `linear_attention(C, B, dt * x, log_decay = dt * A)`",
    ),
    **dict.fromkeys(("delta_rule", "gated_delta_rule"), "write `linear_attention(q, k, v, log_decay, beta)`"),
    **dict.fromkeys(
        ("cumsum", "cumulative_sum"), "`linear_recurrence(x)` sums over tokens, `sum_so_far(x)` along rows"
    ),
    **dict.fromkeys(
        ("lstm", "gru", "rnn"), "write the step of one token: `scan x from (h: [width] = 0) { ... }`"
    ),
    **dict.fromkeys(("einsum", "bmm"), "`matmul(x, y)` multiplies matrices of the last two dims"),
    **dict.fromkeys(("l2norm", "l2_norm", "normalize"), "write `x * rsqrt(sum(x ** 2) + eps)`"),
    **dict.fromkeys(("group_norm", "groupnorm"), "a norm in parts is one of `split_heads(x, parts)`"),
    **dict.fromkeys(("logsigmoid", "log_sigmoid"), "write `-softplus(-x)`"),
    "one_hot": "`loads(chosen, scores)` is 1 where a score was chosen",
    "dropout": "training here is without dropout: leave it out",
    "swish": "write `silu`",
}


def unknown_name(expr: syntax.Name, env: Env, hint: str | None) -> mistakes.UnknownName:
    """A name that stands for nothing where it is used; `hint` says why it does not.

    A slip of the pen is a name of the language before it is some other name of the spec.
    """
    name = expr.name
    hint = hint or _ELSEWHERE.get(name)
    for cutoff in (SLIP, NEAR):
        hint = hint or did_you_mean(name, env.defined(), cutoff) or did_you_mean(name, env.known(), cutoff)
    return mistakes.UnknownName(expr.span, kind="name", name=name, hint=hint)
