"""Every op: inferred types are those of the reference's results, derivatives are those of autograd."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding

from archc.ir import ops as _declarations  # noqa: F401 - declares the ops
from archc.ir.expr import Expr, leaf
from archc.ir.op import OPS, Op, Trait
from archc.ir.ops.attention import Causal, Chunked, Full, Sliding
from archc.ir.ops.position import Rope
from archc.ir.ops.scaling import Dynamic, LinearScaling, Llama3, Longrope, Yarn
from archc.ir.types import DType, TensorType, TypeMistake

Example = tuple[list[tuple[tuple[int, ...], str] | None], dict[str, Any]]

X = ((2, 3, 8), "float")
HEADS = ((2, 3, 4, 6), "float")
POSITIONS = ((2, 3), "i64")
TABLE = ((2, 3, 2), "f32")
ATTENDED = [HEADS, ((2, 5, 2, 6), "float"), ((2, 5, 2, 7), "float"), POSITIONS, ((2, 5), "i64")]
TOTALLED = [HEADS, ((2, 5, 2, 6), "float"), POSITIONS, ((2, 5), "i64")]
MASKS = (Causal(), Full(), Sliding(2), Chunked(2))
CHOSEN = ((2, 3, 2), "i64")

# op -> operands as (shape, dtype) and attributes; every op that the language has must be here
EXAMPLES: dict[str, list[Example]] = {
    "add": [([X, X], {}), ([X, ((8,), "float")], {}), ([X, ((2, 3, 1), "float")], {})],
    "sub": [([X, X], {})],
    "mul": [([X, X], {}), ([X, ((), "scalar")], {})],
    "div": [([X, X], {})],
    "maximum": [([X, X], {}), ([X, ((8,), "f32")], {}), ([((2, 3, 8), "i64"), X], {})],
    "minimum": [([X, X], {}), ([X, ((8,), "f32")], {})],
    "clamp": [([X, ((), "scalar"), ((), "scalar")], {})],
    "linear": [
        ([X, ((5, 8), "float"), None], {"layout": "out_in", "wide": False}),
        ([X, ((8, 5), "float"), ((5,), "float")], {"layout": "in_out", "wide": False}),
        ([X, ((5, 8), "float"), ((5,), "float")], {"layout": "out_in", "wide": True}),
    ],
    "head_linear": [
        ([HEADS, ((4, 5, 6), "float"), None], {"layout": "out_in", "wide": False}),
        ([HEADS, ((4, 6, 5), "float"), ((4, 5), "float")], {"layout": "in_out", "wide": False}),
        ([HEADS, ((4, 6, 5), "float"), ((4, 5), "float")], {"layout": "in_out", "wide": True}),
        ([HEADS, ((20, 6), "float"), None], {"layout": "rows", "wide": False}),
    ],
    "embedding": [([POSITIONS, ((9, 5), "float")], {})],
    "parameter": [([((4, 5), "float")], {})],
    "matmul": [
        ([((2, 3, 4), "float"), ((2, 4, 5), "float")], {}),
        ([((2, 3, 4, 2, 6), "float"), ((2, 3, 1, 6, 5), "float")], {}),
    ],
    "rms_norm": [
        ([X, ((8,), "float")], {"eps": 1e-6, "offset": 0.0, "cast": "before"}),
        ([X, ((8,), "float")], {"eps": 1e-6, "offset": 1.0, "cast": "after"}),
        ([HEADS, None], {"eps": 1e-6, "offset": 0.0, "cast": "before"}),
    ],
    "layer_norm": [
        ([X, ((8,), "float"), ((8,), "float")], {"eps": 1e-5, "offset": 0.0}),
        ([X, ((8,), "float"), None], {"eps": 1e-5, "offset": 1.0}),
        ([X, None, None], {"eps": 1e-5, "offset": 0.0}),
    ],
    "ones": [([X], {"shape": None})],
    "softmax": [([X], {})],
    "sum": [([X], {})],
    "mean": [([X], {})],
    "rope_frequencies": [
        ([POSITIONS], {"rope": rope, "width": 6})
        for rope in (
            Rope(1e4),
            Rope(1e4, 4, "interleaved", LinearScaling(2.0)),
            Rope(1e4, scaling=Llama3(8.0, 1.0, 4.0, 64)),
            Rope(1e4, scaling=Dynamic(8.0, 2)),
            Rope(1e4, scaling=Yarn(8.0, 64)),
            Rope(1e4, scaling=Longrope((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), 2, 1.1)),
        )
    ],
    "rope_table": [
        ([POSITIONS, ((2,), "f32")], {"magnitude": 1.0}),
        ([POSITIONS, ((2, 1, 2), "f32")], {"magnitude": 1.1}),
    ],
    "sinusoid": [([X, POSITIONS], {"theta": 1e4, "layout": layout}) for layout in ("interleaved", "halves")],
    "rotate_by": [([HEADS, TABLE, TABLE], {"pairing": pairing}) for pairing in ("half", "interleaved")],
    "attend": [
        *(([*ATTENDED, None, None, None], {"mask": mask, "scale": 0.5, "softcap": None}) for mask in MASKS),
        (
            [*ATTENDED, ((2, 4, 3, 5), "float"), ((4,), "float"), ((2, 3, 2), "i64")],
            {"mask": Causal(), "scale": 0.5, "softcap": 5.0},
        ),
        ([*ATTENDED, None, None, ((2, 3, 2, 2), "i64")], {"mask": Causal(), "scale": 0.5, "softcap": None}),
    ],
    "in_front": [
        ([((2, 3, *shape), "float"), POSITIONS, ((2, *shape), "float")], {}) for shape in ((6,), (4, 6))
    ],
    "log_total": [
        *(([*TOTALLED, None, None], {"mask": mask, "scale": 0.5, "softcap": None}) for mask in MASKS),
        (
            [*TOTALLED, ((2, 4, 3, 5), "float"), ((2, 3, 2, 2), "i64")],
            {"mask": Causal(), "scale": 0.5, "softcap": 5.0},
        ),
    ],
    "rank_keys": [
        ([((2, 3, 4, 5), "float"), ((2, 5), "i64")], {"count": 2, "size": size}) for size in (1, 2, 4)
    ],
    "score_keys": [
        ([HEADS, ((2, 5, 2, 6), "float"), ((2, 5), "i64")], {"scale": 0.5, "wide": wide})
        for wide in (False, True)
    ],
    "hide_keys": [([((2, 3, 4, 5), "float"), POSITIONS, ((2, 5), "i64")], {"mask": mask}) for mask in MASKS],
    "weighted_values": [([((2, 3, 4, 5), "float"), ((2, 5, 2, 7), "float")], {})],
    "sum_so_far": [([X], {})],
    "select_keys": [
        (
            [HEADS, ((2, 5, 1, 6), "float"), ((2, 3, 4), "f32"), POSITIONS, ((2, 5), "i64")],
            {"mask": Causal(), "count": count},
        )
        for count in (2, 8)
    ],
    "alibi_bias": [([POSITIONS, ((2, 5), "i64")], {"heads": heads, "scale": 1.0}) for heads in (1, 4, 6)],
    "relative_bias": [
        ([POSITIONS, ((2, 5), "i64"), ((8, 3), "float")], {"bidirectional": both, "distance": 9})
        for both in (False, True)
    ],
    "key_distance_bias": [
        ([((1, 3), "i64"), ((2, 5), "i64"), ((2, 5, 4, 6), "float")], {"first": -1, "beyond": beyond})
        for beyond in ("zero", "nearest")
    ],
    "distance_bias": [
        ([POSITIONS, ((2, 5), "i64"), (shape, "float")], {"first": first, "beyond": beyond})
        for shape, first, beyond in (((4, 3), -1, "nearest"), ((2, 3, 4, 6), 0, "zero"))
    ],
    "split": [([X], {"sizes": 4}), ([X], {"sizes": (1, 2, 5)})],
    "interleave": [([X, X, X], {})],
    "every": [([((2, 6, 8), "float")], {"count": 3, "first": first}) for first in (False, True)],
    "concat": [([X, ((2, 3, 1), "float")], {})],
    "split_heads": [([X], {"heads": 4})],
    "merge_heads": [([HEADS], {})],
    "expand_heads": [([((2, 3, 1, 6), "float")], {"heads": 4})],
    "squeeze": [([((2, 3, 1), "float")], {}), ([((2, 3, 1), "i64")], {})],
    "transpose": [([HEADS], {})],
    "table_bias": [([((2, 1, 3, 5), "i64"), ((7, 4), "float")], {})],
    "query_bias": [([X], {})],
    "bias_of_keys": [([X, ((2, 3), "i64")], {})],
    "bias_of_pairs": [([((2, 3, 5, 4), dtype), ((1, 5), "i64")], {}) for dtype in ("float", "i64", "bool")],
    "by_query": [([((2, 4, 3, 5), "float")], {}), ([((2, 1, 3, 1), "i64")], {})],
    "pair_positions": [([POSITIONS, ((2, 5), "i64")], {})],
    "end_of": [([x, POSITIONS], {"last": last}) for x in (X, POSITIONS) for last in (False, True)],
    "reverse_tokens": [([x, POSITIONS], {}) for x in (X, POSITIONS)],
    "token_after": [([x, POSITIONS], {"by": by}) for x in (X, POSITIONS) for by in (1, 5)],
    "slice": [([X], {"start": 2, "end": 7})],
    "upcast": [([X], {}), ([POSITIONS], {})],
    "unsqueeze": [([X], {})],
    "cast_like": [([TABLE, X], {}), ([X, TABLE], {})],
    "top_k": [([X], {"k": 3}), ([X], {"k": 8})],
    "group_mask": [
        ([X], {"groups": 4, "keep": 2, "score": score, "fill": fill})
        for score, fill in (("largest", "zero"), ("sum_top_two", "minus_infinity"))
    ],
    "gather": [
        ([X, CHOSEN], {}),
        ([((8,), "float"), CHOSEN], {}),
        ([HEADS, ((2, 3, 1, 2), "i64")], {}),
        ([((2, 1, 8), "float"), ((3, 5), "i64")], {}),
    ],
    "drop": [([((2, 3, 2), "float"), CHOSEN, POSITIONS], {"count": 6, "factor": 1.5})],
    "sampled": [([X], {"surely": 1, "factor": 2.0})],
    "jitter": [([X], {"amount": 0.1})],
    "within": [
        (
            [((2, new, 2), "float"), ((2, new, 2), "i64"), CHOSEN, ((2, new), "i64"), ((2, 3), "i64")],
            {"count": 8, "capacity": 2},
        )
        for new in (1, 3)
    ],
    "shift": [
        ([((2, 5, 3), dtype), ((2, new), "i64"), ((2, 5), "i64")], {"by": 2})
        for new, dtype in ((1, "float"), (5, "float"), (3, "i64"))
    ],
    "causal_conv": [
        (
            [((2, 5, *inner, 6), "float"), ((2, new), "i64"), ((2, 5), "i64"), ((6, 1, 3), "float"), offset],
            {"taps": 3},
        )
        for new, inner, offset in ((1, (), None), (5, (4,), None), (3, (), ((6,), "float")))
    ],
    "group_conv": [
        (
            [
                ((2, 5, 3, 4), "float"),
                ((2, new), "i64"),
                ((2, 5), "i64"),
                first,
                ((6, 4, 3), "float"),
                offset,
            ],
            {"taps": 3},
        )
        for new, first, offset in ((1, None, None), (3, ((3, 4), "float"), ((6,), "float")))
    ],
    "recur": [
        (
            [*[((2, 3, 2, 4), "float")] * 2, ((2, 3, 6, 5), dtype), POSITIONS, decay, None, *erased, None],
            {"scale": 0.5, "reads": reads},
        )
        for dtype, decay, erased, reads in (
            ("float", None, (None, None), "after"),
            ("f32", ((2, 3, 6), "f32"), (None, None), "before"),
            ("float", ((6, 4), "f32"), (((2, 3, 6, 4), "float"),) * 2, "after"),
        )
    ],
    "carry_maximum": [
        ([X, POSITIONS, ((2, 3, 8), "f32"), None], {"first": None}),
        ([HEADS, POSITIONS, ((4, 6), "float"), None], {"first": 0.0}),
    ],
    "new_positions": [([((1, 2), "i64"), ((1, 5), "i64")], {})],
    "loads": [([CHOSEN, X], {})],
    "unless_zero": [([CHOSEN, ((2, 3, 2), "float")], {})],
    "average": [
        ([x, POSITIONS], {"over": over}) for over in ("batch", "sequence") for x in (X, ((2, 3), "float"))
    ],
    "logsumexp": [([X], {})],
    "exclusive_or": [([POSITIONS, POSITIONS], {})],
    "whole": [([X], {})],
    "whole_table": [([POSITIONS, ((9, 3), "i64")], {})],
    "whole_quotient": [([POSITIONS], {"by": 2})],
    "scaled": [([X], {"by": 2304**0.5})],
    "split_interleaved": [([X], {"parts": 2})],
}
UNARY = [
    name
    for name, op in OPS.items()
    if op.has(Trait.ELEMENTWISE) and len(op.operands) == 1 and not op.internal
]
CASES = [
    (name, number)
    for name, op in OPS.items()
    if not op.internal
    for number in range(len(EXAMPLES.get(name, [None])))
]
RUN_DTYPES = {
    DType.FLOAT: torch.bfloat16,
    DType.F32: torch.float32,
    DType.I64: torch.int64,
    DType.BOOL: torch.bool,
}


def example(name: str, number: int) -> Example:
    if name in EXAMPLES:
        return EXAMPLES[name][number]
    assert name in UNARY, f"give `{name}` an example"
    return [X], {}


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_a_declaration_speaks_of_operands_that_there_are(op: Op) -> None:
    assert {operand.name for operand in op.operands} >= {*op.past, *op.models, *op.widths, *op.saves} - {
        "result"
    }


def operand(shape: tuple[int, ...], dtype: str) -> Any:
    if dtype == "scalar":
        return 1.5
    if dtype == "i64":
        return torch.randint(0, 5, shape)
    if dtype == "bool":
        return torch.ones(shape).bool()
    return (torch.rand(shape) + 0.5).to(torch.float32 if dtype == "f32" else torch.bfloat16)


def test_every_op_has_an_example() -> None:
    languages = {name for name, op in OPS.items() if not op.internal}
    assert languages == set(EXAMPLES) | set(UNARY)


@pytest.mark.parametrize(("name", "number"), CASES)
def test_inferred_types_are_those_of_the_results(name: str, number: int) -> None:
    operands, attributes = example(name, number)
    op = OPS[name]
    types = [TensorType(o[0], DType(o[1])) if o else None for o in operands]
    inferred = op.infer_types(types, attributes)
    results = op.reference(*(operand(*o) if o else None for o in operands), **attributes)
    results = tuple(results) if isinstance(results, tuple | list) else (results,)
    assert [tuple(type_.shape) for type_ in inferred] == [tuple(result.shape) for result in results]
    assert [RUN_DTYPES[type_.dtype] for type_ in inferred] == [result.dtype for result in results]


@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("name", "number"), CASES)
def test_pytorchs_default_dtype_changes_nothing(name: str, number: int, default: torch.dtype) -> None:
    """What a program sets with `torch.set_default_dtype`, for a model's weights or for other code."""
    operands, attributes = example(name, number)
    given = [operand(*o) if o else None for o in operands]
    expected = OPS[name].reference(*given, **attributes)
    torch.set_default_dtype(default)
    try:
        found = OPS[name].reference(*given, **attributes)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


WRONG: list[tuple[str, list[TensorType | None], Mapping[str, Any], str]] = [
    ("add", [TensorType((2, 3), DType.FLOAT), TensorType((2, 4), DType.FLOAT)], {}, "do not match"),
    ("silu", [TensorType((2,), DType.I64)], {}, "floating-point"),
    (
        "linear",
        [TensorType((2, 7), DType.FLOAT), TensorType((5, 8), DType.FLOAT), None],
        {"layout": "out_in", "wide": False},
        "width",
    ),
    (
        "head_linear",
        [TensorType((2, 4, 7), DType.FLOAT), TensorType((4, 5, 8), DType.FLOAT), None],
        {"layout": "out_in", "wide": False},
        "does not take",
    ),
    ("embedding", [TensorType((2,), DType.FLOAT), TensorType((5, 8), DType.FLOAT)], {}, "whole numbers"),
    ("split", [TensorType((2, 8), DType.FLOAT)], {"sizes": 3}, "equal parts"),
    ("split", [TensorType((2, 8), DType.FLOAT)], {"sizes": (3, 3)}, "add up"),
    (
        "interleave",
        [TensorType(("B", "T", 8), DType.FLOAT), TensorType(("B", "T", 4), DType.FLOAT)],
        {},
        "differ",
    ),
    ("interleave", [TensorType(("N", 8), DType.FLOAT)] * 2, {}, "needs values of tokens"),
    ("every", [TensorType(("B", "3T", 8), DType.FLOAT)], {"count": 2, "first": False}, "not a multiple of 2"),
    ("split_heads", [TensorType((2, 8), DType.FLOAT)], {"heads": 3}, "does not split into 3 heads"),
    ("expand_heads", [TensorType((2, 3, 2, 8), DType.FLOAT)], {"heads": 4}, "needs one head"),
    ("slice", [TensorType((2, 8), DType.FLOAT)], {"start": 4, "end": 9}, "does not lie"),
    ("matmul", [TensorType((2, 3), DType.FLOAT), TensorType((4, 5), DType.FLOAT)], {}, "cannot multiply"),
    ("rope_frequencies", [TensorType(("B", "T"), DType.I64)], {"rope": Rope(1e4), "width": 5}, "in pairs"),
    (
        "rope_frequencies",
        [TensorType(("B", "T"), DType.I64)],
        {"rope": Rope(1e4, scaling=Longrope((1.0,), (1.0,), 64)), "width": 8},
        "1 factors do not fit 4 pairs",
    ),
    (
        "rope_frequencies",
        [TensorType(("B", "T"), DType.I64)],
        {"rope": Rope(1e4, 2, scaling=Dynamic(2.0, 64)), "width": 8},
        "more than one pair",
    ),
    (
        "sinusoid",
        [TensorType(("B", "T", 7), DType.FLOAT), TensorType(("B", "T"), DType.I64)],
        {"theta": 1e4, "layout": "halves"},
        "even width",
    ),
    ("merge_heads", [TensorType(("T", 8), DType.FLOAT)], {}, "needs heads"),
    (
        "weighted_values",
        [TensorType(("B", "T", 4, "S"), DType.FLOAT), TensorType(("B", "T", 3, 6), DType.FLOAT)],
        {},
        "4 heads of queries are not divisible by 3",
    ),
    (
        "hide_keys",
        [TensorType(("B", 4, "T", "S"), DType.FLOAT), *[TensorType(("B", n), DType.I64) for n in "TS"]],
        {"mask": Causal()},
        "whole number for each token",
    ),
    (
        "matmul",
        [TensorType(("B", 2, "T"), DType.FLOAT), TensorType(("B", "T", 2), DType.FLOAT)],
        {},
        "known width",
    ),
    ("squeeze", [TensorType(("B", "T", 2), DType.FLOAT)], {}, "last dim of length 1"),
    ("transpose", [TensorType(("B", "T", 2), DType.FLOAT)], {}, "matrices of a known size"),
    (
        "matmul",
        [TensorType(("B", 2, 3), DType.FLOAT), TensorType(("B", 3, 2), DType.F32)],
        {},
        "of one dtype",
    ),
    (
        "matmul",
        [TensorType(("B", 2, 3), DType.FLOAT), TensorType((4, 3, 2), DType.FLOAT)],
        {},
        "cannot multiply",
    ),
    (
        "rope_table",
        [TensorType(("B", "T", 1), DType.I64), TensorType((4,), DType.F32)],
        {"magnitude": 1.0},
        "whole number for each token",
    ),
    (
        "rotate_by",
        [TensorType(("B", "T", 2, 8), DType.FLOAT), *[TensorType(("B", "T", 2, 4), DType.F32)] * 2],
        {"pairing": "half"},
        "needs a table",
    ),
]


@pytest.mark.parametrize(("name", "types", "attributes", "reason"), WRONG)
def test_wrong_operands_are_refused(
    name: str, types: list[TensorType | None], attributes: Mapping[str, Any], reason: str
) -> None:
    with pytest.raises(TypeMistake, match=reason):
        OPS[name].infer_types(types, attributes)


@pytest.mark.parametrize(
    ("q", "k", "v", "reason"),
    [
        ((2, 3, 4, 6), (2, 3, 3, 6), (2, 3, 3, 6), "4 query heads are not divisible by 3"),
        ((2, 3, 4, 6), (2, 3, 2, 5), (2, 3, 2, 5), "differ in head_dim"),
        ((2, 3, 4, 6), (2, 3, 2, 6), (2, 3, 1, 6), "differ in heads"),
        ((2, 3, 24), (2, 3, 2, 6), (2, 3, 1, 6), "must be"),
    ],
)
def test_attention_refuses_heads_that_do_not_fit(q: Any, k: Any, v: Any, reason: str) -> None:
    types = [TensorType(shape, DType.FLOAT) for shape in (q, k, v)]
    positions = TensorType((2, 3), DType.I64)
    attributes = {"mask": Causal(), "scale": 1.0, "softcap": None}
    with pytest.raises(TypeMistake, match=reason):
        OPS["attend"].infer_types([*types, positions, positions, None, None, None], attributes)


@pytest.mark.parametrize(
    "bias", [((4, 3, 5), DType.FLOAT), ((2, 3, 3, 5), DType.F32), ((2, 4, 3, 5), DType.I64)]
)
def test_attention_refuses_a_bias_of_other_pairs(bias: tuple[tuple[int, ...], DType]) -> None:
    operands = [TensorType(shape, DType[dtype.upper()]) for shape, dtype in ATTENDED]
    attributes = {"mask": Causal(), "scale": 1.0, "softcap": None}
    with pytest.raises(TypeMistake, match="`bias` must be floating"):
        OPS["attend"].infer_types([*operands, TensorType(*bias), None, None], attributes)


def evaluate(formula: Expr | float | str, values: Mapping[str, Tensor]) -> Tensor:
    """A formula with tensors for its leaves."""
    if not isinstance(formula, Expr):
        return torch.tensor(float(formula), dtype=torch.float64)
    if formula.op == "leaf":
        return values[str(formula.args[0])]
    result: Tensor = OPS[formula.op].reference(*(evaluate(argument, values) for argument in formula.args))
    return result


DIFFERENTIABLE = [op for op in OPS.values() if op.derivative is not None]


def test_every_elementwise_op_can_be_fused() -> None:
    """All but the structural ones and casts have a Triton expression and a derivative."""
    plain = {op.name for op in OPS.values() if op.has(Trait.ELEMENTWISE) and not op.internal}
    assert plain - {"upcast"} <= {op.name for op in DIFFERENTIABLE if op.triton}


@pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.name)
def test_derivatives_are_those_of_autograd(op: Op) -> None:
    names = [each.name for each in op.operands]
    varying = [name not in ("low", "high") for name in names]  # bounds are numbers
    # Away from 0, where some have a kink, and positive, where some are not defined otherwise.
    spreads = [torch.linspace(0.1, 2.1, 24), torch.linspace(-2.0, 1.9, 24)]
    for spread in spreads[: 1 if op.name in ("log", "sqrt", "rsqrt") else 2]:
        operands = [
            (spread * (1 + 0.37 * place)).double().requires_grad_(varies)
            for place, varies in enumerate(varying)
        ]
        incoming = torch.randn(24, dtype=torch.float64)
        result = op.reference(*operands)
        inputs = [operand for operand in operands if operand.requires_grad]
        truth = [None] * len(inputs)  # of a function that is constant wherever it has a slope
        if result.requires_grad:
            truth = torch.autograd.grad(result, inputs, incoming, allow_unused=True)
        assert op.derivative is not None
        parts = zip(op.derivative(leaf("g"), *map(leaf, names)), varying, strict=True)
        formulas = [formula for formula, varies in parts if varies]
        values = {"g": incoming, **dict(zip(names, operands, strict=True))}
        for formula, gradient in zip(formulas, truth, strict=True):
            expected = gradient if gradient is not None else torch.zeros(24, dtype=torch.float64)
            found = torch.as_tensor(evaluate(formula, values), dtype=torch.float64).detach()
            torch.testing.assert_close(found.expand(24), expected)


@pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.name)
def test_derivatives_of_float32_are_finite_where_those_of_autograd_are(op: Op) -> None:
    """Whatever the size of values: no step overflows on the way to a result that does not."""
    sizes = torch.tensor([0.0, *(10.0**power for power in range(-30, 31, 5)), torch.inf])
    names = [each.name for each in op.operands if each.name not in ("low", "high")]
    values = torch.meshgrid(*[torch.cat([-sizes, sizes])] * len(names), indexing="ij")
    inputs = [value.flatten().requires_grad_() for value in values]
    bounds = [] if op.name != "clamp" else [torch.tensor(-1e7), torch.tensor(1e7)]
    result = op.reference(*inputs, *bounds)
    if not result.requires_grad:
        return
    truth = torch.autograd.grad(result.sum(), inputs, materialize_grads=True)
    operands = [value.detach() for value in inputs] + bounds
    assert op.derivative is not None
    formulas = op.derivative(leaf("g"), *(leaf(each.name) for each in op.operands))
    given = dict(zip((each.name for each in op.operands), operands, strict=True))
    for formula, expected in zip(formulas, truth, strict=False):
        found = evaluate(formula, {"g": torch.ones_like(expected), **given}).to(expected).expand_as(expected)
        finite = expected.isfinite()
        torch.testing.assert_close(found[finite], expected[finite], rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_equal_values_share_the_gradient_as_autograd_has_it(name: str) -> None:
    x, y = (torch.tensor([0.5, other], dtype=torch.float64).requires_grad_() for other in (1.0, 2.0))
    truth = torch.autograd.grad(OPS[name].reference(x, y).sum(), (x, y))
    derivative = OPS[name].derivative
    assert derivative is not None
    formulas = derivative(leaf("g"), leaf("x"), leaf("y"))
    for formula, gradient in zip(formulas, truth, strict=True):
        found = evaluate(formula, {"g": torch.ones(2), "x": x, "y": y}).detach()
        torch.testing.assert_close(found, gradient)


def test_what_is_clamped_has_its_gradient_at_the_bounds() -> None:
    """As torch.clamp has it; the larger and the smaller of two numbers would each keep half of it."""
    x = torch.tensor([-2.0, -1.0, 0.5, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    (truth,) = torch.autograd.grad(torch.clamp(x, -1, 1).sum(), x)
    derivative = OPS["clamp"].derivative
    assert derivative is not None
    formula, *_ = derivative(leaf("g"), leaf("x"), leaf("low"), leaf("high"))
    one = torch.ones((), dtype=torch.float64)
    found = evaluate(formula, {"g": one, "x": x, "low": -one, "high": one}).detach()
    torch.testing.assert_close(found, truth)
    assert truth.tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize("op", [op for op in OPS.values() if op.scalar], ids=lambda op: op.name)
def test_numbers_known_now_are_computed_as_tensors_are(op: Op) -> None:
    assert op.scalar is not None
    numbers = [0.7, 0.4, 0.6][: len(op.operands)]
    tensors = [torch.tensor(number, dtype=torch.float64) for number in numbers]
    assert op.scalar(*numbers) == pytest.approx(float(op.reference(*tensors)), rel=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [48, 1152, 3072, 3840])
def test_embeddings_are_scaled_as_in_transformers(width: int, dtype: torch.dtype) -> None:
    """Bit for bit: the root of the width is rounded first, that of 3072 to 55.5 in bfloat16."""
    theirs = Gemma3TextScaledWordEmbedding(40, width, 0, width**0.5).to(dtype)
    found = OPS["scaled"].reference(theirs.weight, by=width**0.5)
    assert torch.equal(found, theirs(torch.arange(40)))
    assert dtype is torch.float32 or not torch.equal(found, theirs.weight * width**0.5)
