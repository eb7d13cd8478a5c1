"""Plans for the choice of experts: a token's scores in registers, forward and backward."""

from __future__ import annotations

from archc.codegen.code import Argument
from archc.codegen.kernels.custom_op import CustomOp
from archc.codegen.kernels.experts.router_gradient import GradientWriter
from archc.codegen.kernels.experts.router_lines import RouterWriter
from archc.codegen.kernels.experts.router_plan import RouterKernel, RouterPass
from archc.codegen.kernels.fused import Fused
from archc.ir.types import DType, TensorType


def plan_router(fused: Fused) -> RouterKernel:
    """The kernel of a rule of the router family."""
    forward, backward = RouterWriter(fused), GradientWriter(fused)
    lines, gradient_lines = forward.write(), backward.write()
    rows = next(
        name for name, type_ in fused.types.items() if len(type_.shape) > 1 and name in forward.loaded
    )
    vectors = [name for name in backward.wanted if len(fused.types[name].shape) == 1]
    written = {name: f"d{name}_rows" if name in vectors else f"d{name}" for name in backward.wanted}
    incoming = tuple(f"d{name}" for name in backward.incoming)
    return RouterKernel(
        name=fused.name,
        equation=fused.equation,
        layout=fused.layout,
        op=_custom_op(fused, backward, rows),
        forward=_pass(forward, tuple(forward.loaded), fused.rule.output_names, lines),
        backward=(
            _pass(
                backward,
                (*incoming, *backward.chosen, *backward.loaded),
                tuple(written.values()),
                gradient_lines,
            )
            if backward.wanted
            else None
        ),
        allocated=tuple(
            (tensor, _gradient_rows(fused, name, rows) if name in vectors else f"_like({name})")
            for name, tensor in written.items()
        ),
        sums=tuple((f"d{name}", f"{written[name]}.sum(0).to({name}.dtype)") for name in vectors),
    )


def _pass(
    writer: RouterWriter, read: tuple[str, ...], written: tuple[str, ...], lines: list[str]
) -> RouterPass:
    blocks = tuple((name, lanes) for lanes, name in writer.blocks.items())
    return RouterPass(read, written, blocks, tuple(lines))


def _gradient_rows(fused: Fused, name: str, rows: str) -> str:
    """An empty tensor for what each token adds to the gradient of a vector."""
    width = fused.width(name)
    return f"torch.empty({rows}.shape[:-1].numel(), {width}, dtype=torch.float32, device={rows}.device)"


def _custom_op(fused: Fused, gradient: GradientWriter, rows: str) -> CustomOp:
    """What the gradient reads or is shaped like is kept for it."""
    needed = {*gradient.wanted, *gradient.loaded, *([rows] if gradient.wanted else [])}
    saved = [name for name in fused.types if name in needed] + gradient.chosen
    named = zip(fused.rule.output_names, fused.node.types, strict=True)
    incoming = (*(f"d{name}" for name in gradient.incoming), *saved)
    one_comes_in = len(gradient.incoming) == 1  # without it the gradient is not asked for
    return CustomOp(
        operands=fused.operands,
        outputs=fused.rule.output_names,
        fakes=tuple(_allocation(rows, type_, fused) for _, type_ in named),
        saved=tuple(saved),
        incoming=tuple(map(Argument, incoming)),
        gradients=tuple(f"d{name}" for name in gradient.wanted),
        gradient_fakes=tuple(f"_like({name})" for name in gradient.wanted),
        returned=tuple(f"d{name}" if name in gradient.wanted else "None" for name in fused.types),
        remembered=(
            ("ctx.set_materialize_grads(False)  # no zeros for what was chosen",) if one_comes_in else ()
        ),
        anchor=rows,
        plain=fused.plain,
    )


def _allocation(rows: str, type_: TensorType, fused: Fused) -> str:
    """An empty tensor for an output: int64, float32, or of the dtype of an operand that has the model's."""
    if type_.dtype is DType.FLOAT:
        like = next(name for name, each in fused.types.items() if each.dtype is DType.FLOAT)
        kind = f"{like}.dtype"
    else:
        kind = {DType.I64: "torch.int64", DType.F32: "torch.float32"}[type_.dtype]
    return f"torch.empty(*{rows}.shape[:-1], {type_.width}, dtype={kind}, device={rows}.device)"
