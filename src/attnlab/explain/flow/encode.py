"""A flow as data for the page: of a long text or a wide layer as much as can be drawn and read."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from attnlab.explain.flow.node import ALPHA, Flow, Node
from attnlab.explain.numbers import MOST_TOKENS
from attnlab.inspection.figures import printable

MOST_NUMBERS = 16  # of a vector, and of the rows and columns of a matrix: the rest of a sum is one number
MOST_DECIMALS = 4  # that the page writes
MOST_ROWS = 8  # of a state, either way


def encoded(flow: Flow, *, name: str, heading: str, tokens: Sequence[str], focus: int) -> dict[str, Any]:
    """What the page draws. Lanes are all tokens, or those that the focus reads most."""
    dim = len(tokens)
    lanes = _lanes(flow, dim, focus)
    asks = lanes if dim <= MOST_TOKENS else [focus]
    heads = max((len(n.values) for n in flow.nodes if n.kind == "pair"), default=0)
    heads = heads or max(len(n.values) for n in flow.nodes if n.kind == "vector")
    return {
        "name": name,
        "heading": heading,
        "tokens": [printable(tokens[i]) for i in lanes],
        "places": [i + 1 for i in lanes],
        "all": dim,
        "asks": [lanes.index(i) for i in asks],
        "focus": lanes.index(focus),
        "heads": heads,
        "stages": [list(stage) for stage in flow.stages],
        "nodes": [_node(n, lanes, asks) for n in flow.nodes],
    }


def _lanes(flow: Flow, dim: int, focus: int) -> list[int]:
    if dim <= MOST_TOKENS:
        return list(range(dim))
    maps = [n for n in flow.nodes if n.kind == "pair" and n.letter == ALPHA]
    if not maps:  # a memory: the last tokens that it has read
        first = max(0, min(focus - MOST_TOKENS + 1, dim - MOST_TOKENS))
        return list(range(first, first + MOST_TOKENS))
    row = np.abs(maps[-1].values[:, focus]).max(0)
    row[focus] = np.inf
    return sorted(int(j) for j in np.argsort(-row, kind="stable")[:MOST_TOKENS])


def _node(n: Node, lanes: Sequence[int], asks: Sequence[int]) -> dict[str, Any]:
    data: dict[str, Any] = {
        "key": n.key,
        "letter": n.letter,
        "title": n.title,
        "stage": n.stage,
        "kind": n.kind,
        "rule": n.rule,
        "parents": list(n.parents),
        "factor": list(n.factor),
        "shape": list(n.values.shape),
        "top": _short(float(np.abs(np.nan_to_num(n.values, posinf=0, neginf=0)).max(initial=0.0)) or 1.0),
        "values": _list(_cut(n, n.values, lanes, asks)),
    }
    if n.hidden is not None:
        data["hidden"] = _cut(n, n.hidden, lanes, asks).astype(int).tolist()
    if n.operation is not None:
        data["operation"] = n.operation.name
        data["operands"] = [_list(_cut(n, x, lanes, asks)) for x in n.operation.operands]
    if n.expression is not None:
        data["sum"] = [n.expression.axes, n.expression.function, n.expression.terms]
    if n.start:
        data["start"] = n.start if isinstance(n.start, str) else _list(np.array(n.start))
    if n.source is not None:
        data["source"] = [n.source.file, n.source.line, n.source.text]
    if n.labels:
        data["labels"] = [[printable(token) for token in n.labels[i]] for i in lanes]
    return data


def _cut(n: Node, values: np.ndarray, lanes: Sequence[int], asks: Sequence[int]) -> np.ndarray:
    """The numbers that the page has a place for."""
    if n.kind == "vector":
        return values[:, list(lanes), :MOST_NUMBERS]
    if n.kind == "pair":
        return values[:, list(asks)][:, :, list(lanes)]
    if n.kind == "total":
        return values[:, list(asks)]
    if n.kind == "state":
        return values[list(lanes), :, :MOST_ROWS, :MOST_ROWS]
    if n.kind == "words":
        return values[list(lanes)]
    return values[:, :MOST_NUMBERS, :MOST_NUMBERS]


def _list(values: np.ndarray) -> Any:
    return _rounded(np.nan_to_num(values, posinf=1e38, neginf=-1e38).tolist())


def _rounded(x: Any) -> Any:
    return [_rounded(each) for each in x] if isinstance(x, list) else _short(x)


def _short(x: float) -> float:
    """As many digits as a float32 is sure of; all of them where these end in a 5 that rounding to decimals goes by."""
    text = f"{x:.7g}"
    return x if text.endswith("5") and len(text.partition(".")[2]) <= MOST_DECIMALS + 1 else float(text)
