"""What can be called, and how its arguments are matched."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, TypeAlias, TypeGuard

from archc.errors import Span
from archc.frontend import mistakes, syntax
from archc.frontend.arguments import ArgumentMistake, Parameter, match, signature
from archc.frontend.values import BlockValue, Builtin
from archc.ir.op import REQUIRED, Attr, Op
from archc.ir.program import KEY_POSITIONS, POSITIONS
from archc.ir.records import Record

TIED_TO = Parameter("tied_to", required=False, by_name=True)


def _query(name: str, doc: str) -> Builtin:
    return Builtin(name, lambda x: x, ("x",), doc)


NOTED = Builtin(
    "noted",
    lambda name: name,
    ("name",),
    "The mean of what `note name` has left so far; only in a `loss`.",
)

# Functions of a tensor's type and place, and of what was noted; calls.py evaluates them.
QUERIES = (
    _query("width", "The size of the last dim of a tensor, or of a list of numbers, a compile-time number."),
    _query(POSITIONS, "The position of each token of a tensor [B, T, ...] in its sequence: [B, T]."),
    _query(KEY_POSITIONS, "The positions of all tokens so far, -1 for padding: [B, S]."),
    NOTED,
)

Callee: TypeAlias = Op | BlockValue | Builtin | type[Record]
Arguments: TypeAlias = dict[str, syntax.Argument]


def is_callee(value: Any) -> TypeGuard[Callee]:
    """Whether a value is a `Callee`."""
    return isinstance(value, Op | BlockValue | Builtin) or (
        isinstance(value, type) and issubclass(value, Record)
    )


def name_of(callee: Callee) -> str:
    """How messages call it."""
    if isinstance(callee, BlockValue):
        return callee.block.name
    return callee.kind if isinstance(callee, type) else callee.name


def parameters_of(callee: Callee) -> list[Parameter]:
    """What a callee takes, in order; the operands of a variadic op are left out."""
    if isinstance(callee, Op):
        operands = [Parameter(operand.name, not operand.optional) for operand in callee.data_operands]
        settings = [Parameter(name, attr.default is REQUIRED) for name, attr in settings_of(callee).items()]
        return operands + settings + ([TIED_TO] if callee.weights else [])
    if isinstance(callee, BlockValue):
        return [*(Parameter(p.name, p.default is None) for p in callee.block.params), TIED_TO]
    if isinstance(callee, Builtin):
        return [Parameter(name, required=True) for name in callee.parameters]
    return [Parameter(field.name, field.default is MISSING) for field in fields(callee)]


def settings_of(op: Op) -> dict[str, Attr]:
    """An op's options and attributes, in the order in which a call takes them: what is required first."""
    settings = {**op.options, **op.attributes}
    required = {name: attr for name, attr in settings.items() if attr.default is REQUIRED}
    return {**required, **settings}


def match_call(callee: Callee, call: syntax.Call) -> Arguments | mistakes.WrongArguments:
    """The arguments of a call by the names of parameters, or what is wrong with them.

    Those of a variadic callee that stand without a name are left out.
    """
    arguments = call.arguments
    parameters = parameters_of(callee)
    shown = signature(name_of(callee), parameters)
    if is_variadic(callee):
        arguments = tuple(argument for argument in arguments if argument.name is not None)
        shown = signature(name_of(callee), parameters, first="...")
        if len(arguments) == len(call.arguments):
            return wrong_arguments(
                call, name_of(callee), ArgumentMistake("needs an argument", f"it is {shown}")
            )
    try:
        return match(arguments, parameters, shown)
    except ArgumentMistake as mistake:
        return wrong_arguments(call, name_of(callee), mistake)


def wrong_arguments(
    call: syntax.Call | syntax.Model, callee: str, mistake: ArgumentMistake
) -> mistakes.WrongArguments:
    """The mistake, at the argument at fault or at the callee."""
    at = mistake.argument.span if mistake.argument is not None else _callee_span(call)
    return mistakes.WrongArguments(at, callee=callee, fault=mistake, hint=mistake.hint)


def _callee_span(call: syntax.Call | syntax.Model) -> Span:
    return call.callee.span if isinstance(call, syntax.Call) else call.arch_span


def is_variadic(callee: Callee) -> bool:
    """Whether a callee takes any number of arguments without names."""
    return isinstance(callee, Op | Builtin) and callee.variadic
