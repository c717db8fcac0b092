"""A memory's part of the flow: the formula that gives its numbers, or the numbers alone."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from attnlab.explain.flow import flow_rules
from attnlab.explain.flow.expressions import Expression, Numbers, evaluated, expression
from attnlab.explain.flow.memory_formulas import FORMULAS, Line
from attnlab.explain.flow.node import Kind, Node, Stage
from attnlab.explain.steps import Step

if TYPE_CHECKING:
    from attnlab.explain.flow.graph import Builder

STAGES = {
    "write": Stage("write", "Write", "What the token writes, and what that is made of."),
    "state": Stage("state", "State", "What is left of the past, and what is written."),
    "context": Stage("context", "Context vectors", "What the query reads."),
}
SEARCHED = ("mul", "__rmul__", "gather")  # what makes the arrays that are looked for
LEARNED = {"gain": "g_n", "offset": "b"}  # of an inner model


def remember(builder: "Builder", states: Sequence[Step]) -> bool:
    """Add what a memory does up to the context vectors; False where these are still to be added."""
    shown = {step.key: step.values for step in (*states, builder.steps["context"])}
    if "map" in builder.steps:
        shown["map"] = builder.steps["map"].values
    beside = _beside(builder, shown)
    given = {key: node.values for key, node in (*builder.nodes.items(), *beside.items()) if node.kind != "matrix"}
    matrices = {key: node.values for key, node in beside.items() if node.kind == "matrix"}
    for lines in FORMULAS:
        if any(_is_state(line.key) and line.key not in shown for line in lines):
            continue
        try:
            expressions = {line.key: expression(line.axes, line.text, line.function, builder.layer) for line in lines}
        except AttributeError:  # a number that this layer does not have
            continue
        missing = {key for one in expressions.values() for key in one.keys}.difference(expressions, given, matrices)
        for nodes in _searched(builder, missing):
            more = {key: node.values for key, node in nodes.items()}
            numbers = _numbers(lines, expressions, given | more, matrices, shown)
            if numbers is not None:
                _add(builder, lines, expressions, numbers, {**beside, **nodes})
                return "context" in expressions
    show(builder, states)
    return False


def show(builder: "Builder", states: Sequence[Step]) -> None:
    """The memory's numbers, without a formula."""
    for state in states:
        name = state.key.partition(".")[2]
        written = builder.steps[f"{state.key}.written"]
        letters = ("A", "S") if name == "matrix" or len(states) == 1 else (f"A_{name[:1]}", f"S_{name[:1]}")
        for step, letter, stage in ((written, letters[0], "write"), (state, letters[1], "state")):
            node = Node(step.key, letter, step.title, stage, "state", step.values)
            builder.add(node, STAGES[stage]._replace(text=step.text))


def _numbers(
    lines: Sequence[Line],
    expressions: dict[str, Expression],
    given: dict[str, Numbers],
    matrices: dict[str, Numbers],
    shown: dict[str, Numbers],
) -> dict[str, Numbers] | None:
    """The numbers of every line, if those that are shown are what the layer has."""
    starts = {line.key: matrices[line.start] if isinstance(line.start, str) else np.array(line.start) for line in lines
              if not isinstance(line.start, str) or line.start in matrices}  # fmt: skip
    starts |= {key: matrices["W_0"] for key in ("state.weight",) if "W_0" in matrices}
    others = {key: values for key, values in given.items() if key not in expressions} | matrices
    try:
        with np.errstate(all="ignore"):
            numbers = evaluated(list(expressions.items()), others, starts, shown)
    except (ValueError, KeyError, IndexError):  # other numbers, or other shapes
        return None
    for line in lines:
        if line.axes.startswith("hi") and line.axes[2] == "j":
            numbers[line.key] = np.tril(numbers[line.key])
    for key in expressions:
        if key in shown and not flow_rules.same(numbers[key], shown[key]):
            return None
    return numbers if any(key in shown for key in expressions) else None


def _is_state(key: str) -> bool:
    return key.startswith("state.") and not key.endswith(".written")


def _add(
    builder: "Builder",
    lines: Sequence[Line],
    expressions: dict[str, Expression],
    numbers: dict[str, Numbers],
    beside: dict[str, Node],
) -> None:
    for line in lines:
        stage = STAGES[line.stage]
        for key in expressions[line.key].keys:
            if key in beside and key not in builder.nodes:
                for parent in beside[key].parents:
                    if parent in beside and parent not in builder.nodes:
                        builder.add(replace(beside[parent], stage=line.stage), stage)
                builder.add(replace(beside[key], stage=line.stage), stage)
        if isinstance(line.start, str) and line.start not in builder.nodes:
            builder.add(replace(beside[line.start], stage=line.stage), stage)
        kind: Kind = "vector" if line.axes[:2] == "ht" else "state" if line.axes[0] == "t" else "pair"
        step = builder.steps.get(line.key)
        values = numbers[line.key].astype(np.float32) if step is None or line.key.endswith(".written") else step.values
        hidden = np.triu(np.ones_like(values, dtype=bool), 1) if kind == "pair" else None
        parents = tuple(key for key in expressions[line.key].keys if key != line.key)
        node = Node(
            line.key,
            line.letter,
            line.title,
            line.stage,
            kind,
            values,
            "sum",
            parents,
            hidden=hidden,
            expression=expressions[line.key],
            start=line.start,
        )
        builder.add(node, stage)


def _beside(builder: "Builder", shown: dict[str, Numbers]) -> dict[str, Node]:
    """What formulas may read besides: a 1 after each vector, queries and keys turned, learned numbers."""
    nodes: dict[str, Node] = {}

    def add(key: str, letter: str, title: str, values: Numbers, **more: object) -> None:
        kind: Kind = "matrix" if key in matrices else "state" if values.ndim == 4 else "vector"
        nodes[key] = replace(Node(key, letter, title, "write", kind, values.astype(np.float32)), **more)  # type: ignore[arg-type]

    matrices = {"W_0", *LEARNED}
    for key in ("q", "k", "v"):
        if key in builder.nodes:
            x = builder.nodes[key].values
            one = np.concatenate([x, np.ones_like(x[..., :1])], -1)
            add(f"{key}.one", key, f"{builder.nodes[key].title}, and a 1 after each", one, rule="join", parents=(key,))
    for key in ("k", "v", "extra.beta"):  # two writes of a token, one after the other
        node, q = builder.nodes.get(key), builder.nodes.get("q")
        if node is not None and q is not None and len(node.values) == 2 * len(q.values):
            for i, which in enumerate(("first", "second")):
                title = f"{node.title}, of the {which} write"
                add(f"{key}.{i + 1}", f"{node.letter}_{i + 1}", title, node.values[i::2], parents=(key,))
    if "state.angle" in shown:
        angle = shown["state.angle"][:, :, 0].swapaxes(0, 1)
        add("angle", "φ", "The angle that the state has turned by", angle)
        for key in ("q", "k"):
            x = flow_rules.turned(builder.nodes[key].values, angle)
            title = f"{builder.nodes[key].title}, turned"
            add(f"turned.{key}", f"{key}'", title, x, rule="turn", parents=(key, "angle"))
    if "extra.log_k" in builder.nodes:
        x = builder.nodes["extra.log_k"].values
        add("first.k", "ln k1", "The first key: the unit of the memory", np.broadcast_to(x[:, :1], x.shape))
    learned = {name: p.detach().float().numpy() for name, p in builder.layer.named_parameters()}
    if "state.update" in shown and "weight" in learned:
        shown["state.inner"] = shown["state.weight"] + shown["state.update"]
        add("W_0", "W_0", "The inner model before the first token: learned", learned["weight"])
        add(
            "state.weight", "W", "The inner model when the token's mini-batch began", shown["state.weight"], start="W_0"
        )
        for name, letter in LEARNED.items():
            add(name, letter, "Learned", learned[name])
    return nodes


def _searched(builder: "Builder", missing: set[str]) -> Iterator[dict[str, Node]]:
    """Every array that ran and could be the one that is missing, if only one is: `solved.q` is as large as q."""
    if not missing:
        yield {}
    if len(missing) != 1:
        return
    (key,) = missing
    kind, _, like = key.partition(".")
    titles = {
        "solved": "The solution x of (H + l) x = q",
        "written": "The key that is written under",
        "rated": "How much of its stretch is read",
    }
    if kind not in titles:
        return
    if like == "map":
        if "map" not in builder.steps:
            return
        shape, letter = builder.steps["map"].values.shape, "λ"
    elif like in builder.nodes:
        shape, letter = builder.nodes[like].values.shape, {"solved": "x", "written": "k'"}[kind]
    else:
        return
    for one in reversed(builder.operations.ran):
        if one.name in SEARCHED and one.result.numel() == int(np.prod(shape)):
            values = one.result.detach().float().numpy().reshape(shape)
            yield {
                key: Node(
                    key, letter, titles[kind], "write", "pair" if like == "map" else "vector", values, source=one.source
                )
            }
