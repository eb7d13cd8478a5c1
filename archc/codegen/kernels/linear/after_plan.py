"""What the template of a linear map after a fused op may see."""

from __future__ import annotations

from dataclasses import dataclass

from archc.codegen.code import Argument
from archc.codegen.kernels.custom_op import CustomOp
from archc.codegen.kernels.linear.one_row import OneRow, Reading
from archc.codegen.kernels.norms.norm_lines import if_there
from archc.codegen.literals import result_type

_WARPS = 32  # of a multiprocessor, all of which have loads under way


@dataclass(frozen=True)
class LinearAfterKernel:
    """A fused op and a linear map that reads its result: for one row one kernel.

    before:  the function of the fused op, and `op`, how that is registered
    linear:  the function of the linear map for all else
    product: the name of its result
    outputs: how many a program computes at a time
    maps:    shapes of the weights, outputs and inputs, and whether there is a bias
    after:   the fused op, as measurements name it
    remark:  what was measured of these maps, if anything
    """

    name: str
    equation: tuple[str, ...]
    before: str
    op: CustomOp
    linear: str
    reading: Reading
    row: OneRow
    product: str
    outputs: int
    maps: tuple[tuple[tuple[int, int], bool], ...]
    after: str
    remark: str

    @property
    def template(self) -> str:
        return self.row.template

    @property
    def biased(self) -> bool:
        """Whether any of the linear maps has a bias."""
        return any(biased for _, biased in self.maps)

    @property
    def always_biased(self) -> bool:
        return all(biased for _, biased in self.maps)

    @property
    def weights(self) -> tuple[str, ...]:
        """Those of the linear map."""
        return ("linear_weight", "linear_bias") if self.biased else ("linear_weight",)

    @property
    def op_parameters(self) -> tuple[str, ...]:
        bias = Argument("linear_bias", "Tensor" if self.always_biased else "Tensor | None")
        weights = (Argument("linear_weight"), *((bias,) if self.biased else ()))
        return tuple(map(str, (*self.op.parameters, *weights)))

    @property
    def parameters(self) -> tuple[str, ...]:
        """Of the function, which may be called without a bias."""
        *others, last = self.op_parameters
        return (*others, f"{last} = None" if self.biased and not self.always_biased else last)

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.op.names, *self.weights)

    @property
    def results(self) -> tuple[str, ...]:
        """Those of the fused op, and the product: after them, or in place of what only the map reads."""
        return self._with_product(self.product)

    def _with_product(self, product: str) -> tuple[str, ...]:
        if self.reading.kept:
            return (*self.op.outputs, product)
        return tuple(product if name == self.row.result else name for name in self.op.outputs)

    @property
    def result_type(self) -> str:
        return result_type(len(self.results))

    def like(self, name: str, outputs: str) -> str:
        """An empty tensor for a result; `outputs`: columns of the product."""
        anchor = self.op.anchor
        if name != self.product:
            return dict(zip(self.op.outputs, self.op.fakes, strict=True))[name]
        if self.reading.wide:
            return f"{anchor}.new_empty(*{anchor}.shape[:-1], {outputs}, dtype=torch.float32)"
        return f"_like({anchor}, *{anchor}.shape[:-1], {outputs})"

    @property
    def apart(self) -> tuple[str, ...]:
        """The statements of both ops one after the other."""
        call = f"{self.before}({', '.join(self.op.names)})"
        weights = ", ".join(self.weights)
        if len(self.results) == 1:
            return (f"return {self.linear}({call}, {weights})",)
        results = self._with_product(f"{self.linear}({self.row.result}, {weights})")
        return (f"{', '.join(self.op.outputs)} = {call}", f"return {', '.join(results)}")

    @property
    def written(self) -> tuple[str, ...]:
        """The results that are not the product."""
        return (*self.row.others, *((self.row.result,) if self.reading.kept else ()))

    @property
    def made(self) -> tuple[str, ...]:
        """The results in the order of the kernel's parameters."""
        return (*self.written, self.product)

    @property
    def kernel_parameters(self) -> tuple[str, ...]:
        tensors = (*self.row.pointers, *self.written, *self.weights, self.product)
        return (*(f"{name}_ptr" for name in tensors), "outputs")

    @property
    def kernel_arguments(self) -> tuple[str, ...]:
        weight, *bias = self.weights
        return (
            *self.row.arguments,
            *self.written,
            f"{weight}.contiguous()",
            *bias,
            self.product,
            "outputs",
        )

    @property
    def anchor_width(self) -> int:
        """Columns of the operand that decides."""
        anchor = next(operand for operand in self.op.operands if operand.name == self.op.anchor)
        return int(anchor.shape[-1])

    @property
    def bias_lines(self) -> tuple[str, ...]:
        """What adds the bias to some outputs."""
        load = "tl.load(linear_bias_ptr + output, mask=output < outputs, other=0.0).to(tl.float32)"
        lines = (f"{self.product} += {load}",) if self.biased else ()
        return lines if self.always_biased else if_there("linear_bias", lines) if self.biased else ()

    @property
    def programs(self) -> int:
        """How many programs a multiprocessor has at a time."""
        return _WARPS // self.row.warps

    @property
    def first(self) -> str:
        """The first output of a program."""
        return "tl.program_id(0)" + (f" * {self.outputs}" if self.outputs > 1 else "")

    @property
    def tiles(self) -> str:
        """How many times as many outputs there are as a program computes at a time."""
        return f"triton.cdiv(outputs, {self.outputs})" if self.outputs > 1 else "outputs"

    @property
    def there(self) -> str:
        """The mask of a tile of the weight."""
        return "(output < outputs)[:, None]" + (" & inside[None, :]" if self.row.masked else "")

    @property
    def store(self) -> str:
        return ", mask=inside" if self.row.masked else ""
