"""What Triton's interpreter does anew for each launch, call and value, done once: it takes half the time."""

from __future__ import annotations

import functools
from types import FunctionType
from typing import Any

import numpy as np

from tests.codegen.interpreter_steps import keep_steps, kind_of


@functools.cache
def save_time() -> None:
    """For a process that interprets all of its kernels."""
    _call_builtins_directly()
    _keep_language_patched()
    _keep_block_types()
    _keep_shapes()
    _keep_sizes()
    _keep_numpy_types()
    _keep_common_types()
    _seek_overflow_where_it_is_told()
    keep_steps()
    _index_at_once()


def _call_builtins_directly() -> None:
    """Give the language's functions their semantic in one call, not in three."""
    from triton.runtime import interpreter

    semantic = interpreter.interpreter_semantic

    def patch(owner: Any, name: str, member: Any, _: Any, scope: Any) -> None:
        function = getattr(member, "__wrapped__", member)

        def called(*arguments: Any, **named: Any) -> Any:
            named["_semantic"] = semantic
            return function(*arguments, **named)

        scope.set_attr(owner, name, called)

    interpreter._patch_attr = patch


def _keep_language_patched() -> None:
    """Replace the language's functions once; Triton looks for them at each call of a device function."""
    import triton.language as tl
    from triton.runtime import interpreter

    interpreter._patch_lang(FunctionType((lambda: None).__code__, {"tl": tl, "core": tl.core}))
    interpreter._patch_lang = lambda _: interpreter._LangPatchScope()


def _keep_block_types() -> None:
    """Check a block's shape and compose its type's name once for all blocks alike."""
    import triton.language as tl

    known: dict[tuple[Any, ...], dict[str, Any]] = {}
    describe = tl.block_type.__init__

    def described(self: Any, element_ty: Any, shape: Any) -> None:
        key = (element_ty.name, *shape)
        if key not in known:
            key = (element_ty.name, *(int(getattr(size, "value", size)) for size in shape))
            describe(self, element_ty, shape)
            known[key] = dict(vars(self))
        vars(self).update(known[key])
        self.element_ty = element_ty

    tl.block_type.__init__ = described


def _keep_shapes() -> None:
    """Derive a tensor's shape, size and dtype from its type once for all tensors of that type."""
    import triton.language as tl

    known: dict[str, tuple[Any, Any, Any]] = {}
    make = tl.tensor.__init__

    def made(self: Any, handle: Any, type: Any) -> None:
        if type.name not in known:
            make(self, handle, type)
            known[type.name] = (self.shape, self.numel, self.dtype)
        self.handle, self.type = handle, type
        self.shape, self.numel, self.dtype = known[type.name]

    tl.tensor.__init__ = made


def _keep_sizes() -> None:
    """Check once that values of a type of NumPy's fit into one of Triton's."""
    from triton.runtime.interpreter import TensorHandle

    known: set[tuple[Any, str]] = set()
    check = TensorHandle.__post_init__

    def made(self: Any, data: Any, dtype: Any, attr: dict[str, Any] | None = None) -> None:
        self.data, self.dtype, self.attr = data, dtype, {} if attr is None else attr
        key = (data.dtype, dtype.name)
        if key not in known:
            check(self)
            known.add(key)

    TensorHandle.__init__ = made


def _keep_numpy_types() -> None:
    """Find NumPy's type for one of Triton's once; Triton lists all of them each time."""
    from triton.runtime import interpreter

    known: dict[str, Any] = {}
    find = interpreter._get_np_dtype

    def found(dtype: Any) -> Any:
        name = dtype.scalar.name
        if name not in known:
            known[name] = find(dtype)
        return known[name]

    interpreter._get_np_dtype = found


def _keep_common_types() -> None:
    """Find the type and shape that operands of an operator have in common once for all operands alike.

    Those of binary operators keep the shape of their data, which NumPy broadcasts by itself.
    """
    from triton.language.semantic import TritonSemantic

    for name, broadcasts in (("binary_op_type_checking_impl", False), ("broadcast_impl_value", True)):
        setattr(TritonSemantic, name, _agreed(getattr(TritonSemantic, name), broadcasts))


def _seek_overflow_where_it_is_told() -> None:
    """Compute in 64 bits whether integers overflow only for the assertion that tells it: with --hazards."""
    from triton.language.semantic import TritonSemantic

    seek = TritonSemantic.binary_op_sanitize_overflow_impl

    def sought(self: Any, lhs: Any, rhs: Any, operator: Any) -> None:
        if self.builder.options.debug:
            seek(self, lhs, rhs, operator)

    TritonSemantic.binary_op_sanitize_overflow_impl = sought


def _index_at_once() -> None:
    """Add a tensor's further dimensions in NumPy, whose indices are the same: Triton adds one at a time."""
    import triton.language as tl

    known: dict[tuple[str, str], Any] = {}
    index = tl.tensor.__getitem__

    def indexed(self: Any, places: Any) -> Any:
        key = (self.type.name, repr(places))
        if key not in known:
            known[key] = index(self, places).type
        handle = self.handle
        return tl.tensor(type(handle)(handle.data[places], handle.dtype.scalar), known[key])

    tl.tensor.__getitem__ = indexed


def _agreed(agree: Any, broadcasts: bool) -> Any:
    known: dict[Any, tuple[Any, Any]] = {}

    def agreed(self: Any, lhs: Any, rhs: Any, *flags: bool, **named: bool) -> tuple[Any, Any]:
        key = (kind_of(lhs), kind_of(rhs), flags, *named.items())
        if key not in known:
            known[key] = agree(self, lhs, rhs, *flags, **named)
        left, right = known[key]
        return _converted(self, lhs, left, broadcasts), _converted(self, rhs, right, broadcasts)

    return agreed


def _converted(semantic: Any, operand: Any, example: Any, broadcasts: bool) -> Any:
    """An operand in the type and shape of an example, which is what a number is converted to."""
    if not hasattr(operand, "handle"):
        return example
    if operand.type.name == example.type.name:
        return operand
    value = semantic.cast(operand, example.type.scalar)
    if value.type.name == example.type.name:
        return value
    if not broadcasts:
        return semantic.tensor(value.handle, example.type)
    data = np.broadcast_to(value.handle.data, example.handle.data.shape)
    return semantic.tensor(type(value.handle)(data, example.type.scalar), example.type)
