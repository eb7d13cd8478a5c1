"""Whether a model is a language model: which of its results says what the next token is."""

from __future__ import annotations

from dataclasses import dataclass

from archc.ir.graph import Graph
from archc.ir.program import sequences, tokens_of
from archc.ir.types import Dim, DType, TensorType

LOGITS = "logits"  # what a result is called that says so


@dataclass(frozen=True)
class Logits:
    """The result of a language model that says what its next token is.

    place:      among all results
    vocabulary: how many numbers there are to choose from
    books:      how many numbers a token consists of, each of a codebook; 0 where it is one number
    """

    place: int
    vocabulary: int
    books: int = 0


def logits_of(graph: Graph) -> Logits | None:
    """The logits over tokens of the last sequence, whatever else goes in; None where there are none.

    They are the only result, with one for each row of the tokens' table, or what is called `logits`: of the
    first rows, where tokens are looked up in a table.
    """
    tokens = _tokens(graph)
    if tokens is None:
        return None
    rows, alone = token_rows(graph), len(graph.outputs) == 1
    for place, (name, value) in enumerate(graph.outputs):
        width = _choices(tokens.shape, graph.type(value))
        named = name == LOGITS and width <= (rows or width)
        if width and (named or (alone and width == rows)):
            return Logits(place, width, *map(int, tokens.shape[2:]))
    return None


def vocabulary_of(graph: Graph) -> int:
    """The vocabulary of a language model, 0 for all else."""
    logits = logits_of(graph)
    return logits.vocabulary if logits else 0


def token_rows(graph: Graph) -> int:
    """The rows of the table that tokens of the last sequence are looked up in; 0 where there is none."""
    if _tokens(graph) is None:
        return 0
    users = graph.users(tokens_of(graph, sequences(graph)[-1]))
    tables = [user.operands[1] for user, _ in users if user.op.name == "embedding"]
    rows = graph.type(tables[0]).shape[0] if tables else 0
    return int(rows) if isinstance(rows, int) else 0


def possible_vocabulary(graph: Graph) -> int:
    """The width of the first result that would be logits if it were called so; 0 where none would."""
    tokens, rows = _tokens(graph), token_rows(graph)
    widths = [_choices(tokens.shape, graph.type(value)) for _, value in graph.outputs] if tokens else []
    return next((width for width in widths if 0 < width <= (rows or width)), 0)


def _tokens(graph: Graph) -> TensorType | None:
    """What tokens of the last sequence are, [B, T] or [B, T, codebooks]; None where they are no numbers."""
    known = sequences(graph)
    type_ = graph.type(tokens_of(graph, known[-1])) if known else None
    return type_ if type_ is not None and type_.dtype is DType.I64 and len(type_.shape) <= 3 else None


def _choices(tokens: tuple[Dim, ...], type_: TensorType) -> int:
    """The width of a result that has numbers for each number of each token; 0 if it is another."""
    fits = type_.shape[:-1] == tokens and type_.dtype.is_floating and isinstance(type_.width, int)
    return int(type_.width) if fits else 0
