"""From the steps of a worked example, and all that ran in it, to the flow: matrices, rules and lines of source."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from attnlab.attention.base import Attention
from attnlab.attention.masked import MaskedAttention
from attnlab.attention.softmax import SoftmaxAttention
from attnlab.explain.flow import flow_rules
from attnlab.explain.flow.expressions import expression
from attnlab.explain.flow.memory import remember, show
from attnlab.explain.flow.node import ALPHA, OMEGA, Flow, Kind, Node, Rule, SourceLine, Stage
from attnlab.explain.flow.operations import Operations, Ran
from attnlab.explain.steps import Step

LETTERS = {"inputs": "x", "q": "q", "k": "k", "v": "v", "q.raw": "q", "k.raw": "k", "context": "z", "output": "y"}
MATRICES = {"q": "W_q", "k": "W_k", "v": "W_v", "q.raw": "W_q", "k.raw": "W_k", "output": "W_o", "context": "W"}
EXTRAS = {
    "log_decay": "ln a",
    "log_kept": "ln a",
    "log_input": "ln i",
    "log_momentum": "ln m",
    "beta": "β",
    "gate": "g",
    "asked": "q'",
    "carried": "k'",
    "rows": "c",
}
DEEPEST = 4  # matrices behind each other that are looked for
TIMES = "\N{MULTIPLICATION SIGN}"
NEXT_WORDS = 5  # the likeliest ones that are shown
MOST_EXP = 80.0  # a larger score has no exponential that can be read
Numbers = Float[np.ndarray, "*shape"]


class Builder:
    """Adds nodes one after the other; each knows those before it."""

    def __init__(self, layer: Attention, steps: Sequence[Step], operations: Operations) -> None:
        self.layer, self.steps, self.operations = layer, {step.key: step for step in steps}, operations
        self.nodes: dict[str, Node] = {}
        self.stages: dict[str, Stage] = {}
        self.names = {id(p): name for name, p in layer.named_parameters()}
        self.columns = _columns(operations)

    def add(self, node: Node, stage: Stage | None = None) -> Node:
        """Add a node; without a rule it gets the operation and the line that made its numbers."""
        if stage is not None:
            self.stages.setdefault(stage.key, stage)
        if node.source is None:  # a state is made token by token: that of the last one is looked for
            values = node.values[-1] if node.kind == "state" else node.values
            source = self.operations.source(values)
            if source is None and node.rule == "sum" and np.ptp(values):
                last = values if node.kind == "state" else values[:, -1]  # some rules run in pieces
                source = self.operations.nearly(values) or self.operations.nearly(last)
            node = replace(node, source=source)
        if node.rule == "given" and node.kind not in ("matrix", "words") and node.key not in ("inputs", "embedded"):
            operation = self.operations.in_place(node.values)
            node = replace(node, rule="op", operation=operation) if operation is not None else node
        self.nodes[node.key] = node
        return node

    def ruled(self, rule: Rule, values: Numbers, compute: Callable[[], Numbers], *parents: str) -> dict[str, Any]:
        """The rule and its parents, if it gives these numbers; else nothing."""
        return {"rule": rule, "parents": parents} if flow_rules.same(compute(), values) else {}

    # Vectors

    def vector(self, step: Step, letter: str, stage: Stage) -> Node:
        """A step of vectors, with the matrices behind it where there are some."""
        self.stages.setdefault(stage.key, stage)
        node = Node(step.key, letter, step.title, stage.key, "vector", step.values)
        name = MATRICES.get(step.key, "W")
        node = self.projected(node, name, DEEPEST)
        return self.add(self.scaled(node, name) if node.rule == "given" else node)

    def scaled(self, node: Node, name: str) -> Node:
        """The node as a number times what a matrix made, if that is what it is."""
        product = self.operations.in_place(node.values)
        if product is None or product.name != TIMES or len(product.operands) != 2 or np.ptp(product.operands[1]):
            return node
        before, factor = product.operands
        key = f"{node.key}.raw"
        if key not in self.nodes:
            raw = replace(node, key=key, title=f"{node.title}, before the scale", values=before)
            raw = self.projected(raw, name, DEEPEST)
            if raw.rule == "given":
                return node
            self.add(raw)
        if not flow_rules.same(self.nodes[key].values, before):
            return node
        times = expression("htd", f"{key}:htd * {float(factor.flat[0])!r}", "", self.layer)
        return replace(node, rule="sum", parents=(key,), expression=times)

    def projected(self, node: Node, name: str, depth: int) -> Node:
        """The node with the matrix that made its numbers, if its columns are those of one, and what went into that."""
        columns = [self.columns.get(column.tobytes()) for column in flow_rules.flat(node.values).T]
        if not columns or any(column is None for column in columns):
            return node
        from_ = [column for column in columns if column is not None]
        given = [one.given[0].detach().float().numpy() for one, _ in from_]
        if any(x.shape != given[0].shape or not np.array_equal(x, given[0]) for x in given[1:]):
            return node
        x = given[0].reshape(-1, given[0].shape[-1])
        parent = self.parent(x, node, depth)
        if parent is None:
            return node
        heads, width = len(node.values), node.values.shape[2]
        w = np.stack([one.given[1].detach().float().numpy()[i] for one, i in from_], axis=1)
        w = w.reshape(w.shape[0], heads, width).transpose(1, 0, 2).copy()
        title = f"{name}: {', '.join(dict.fromkeys(self.names.get(id(one.given[1]), 'a matrix') for one, _ in from_))}"
        key = f"{node.key}.W"
        biases = [one.given[2] for one, _ in from_ if len(one.given) > 2 and isinstance(one.given[2], torch.Tensor)]
        parents: tuple[str, ...] = (parent, key)
        b = None
        if len(biases) == len(from_):
            numbers = [float(bias.detach()[i]) for bias, (_, i) in zip(biases, from_, strict=True)]
            b = np.array(numbers, dtype=np.float32).reshape(heads, 1, width)
            parents += (f"{node.key}.b",)
        if not flow_rules.same(flow_rules.linear(self.nodes[parent].values, w, b), node.values):
            return node
        self.add(Node(key, name, title, node.stage, "matrix", w, source=from_[0][0].source))
        if b is not None:
            bias = Node(parents[2], name.replace("W", "b"), "The bias that is added", node.stage, "matrix", b)
            self.add(replace(bias, source=from_[0][0].source))
        return replace(node, rule="linear", parents=parents, source=from_[0][0].source)

    def parent(self, x: Float[np.ndarray, "t c"], node: Node, depth: int) -> str | None:
        """The node whose numbers went into a matrix; made here, in between, where there is none yet."""
        for other in reversed(list(self.nodes.values())):
            if other.kind == "vector" and np.array_equal(flow_rules.flat(other.values), x):
                return other.key
        inputs = self.nodes["inputs"].values
        if depth == 0 or x.shape[0] != inputs.shape[1]:
            return None
        number = 1 + sum(other.letter.startswith("c") for other in self.nodes.values())
        between = Node(
            f"latent.{number}", f"c_{number}", "In between, from one matrix to the next", node.stage, "vector", x[None]
        )
        return self.add(self.projected(between, "W", depth - 1)).key

    # Pairs

    def pair(self, step: Step) -> Node:
        """A step with a number for each query and key."""
        before, _, name = step.key.rpartition(".") if step.key[0].isdigit() else ("", "", step.key)
        prefix = f"{before}." if before else ""
        values, parents = step.values, [n for n in self.nodes.values() if n.kind == "pair" and n.key.startswith(prefix)]
        last = parents[-1] if parents else None
        rule: dict[str, Any] = {}
        layer = self.layer_of_scores()
        letter = {"scores": OMEGA, "weights": ALPHA, "dropout": ALPHA}.get(step.part, "")
        source = None
        if name == "dot":
            values, source = self.exact(values)
            q, k = self.nodes.get("q") or self.nodes["inputs"], self.nodes.get("k") or self.nodes["inputs"]
            if (
                q.values.shape[2] == k.values.shape[2]
                and len(values) % len(k.values) == 0
                and len(q.values) == len(values)
            ):
                rule = self.ruled("dot", values, lambda: flow_rules.dot(q.values, k.values), q.key, k.key)
        elif name == "scaled" and last is not None and isinstance(layer, SoftmaxAttention):
            scale = float(layer.scale)
            rule = self.ruled("scale", values, lambda: last.values * scale, last.key) | {"factor": (scale,)}
        elif name == "masked" and last is not None and step.hidden is not None:
            rule, source = {"rule": "mask", "parents": (last.key,)}, self.operations.mask(step.hidden)
        elif step.key == "first.tril" and last is not None:
            rule = self.ruled("tril", values, lambda: np.where(np.asarray(step.hidden), 0, last.values), last.key)
        elif step.key == "first.rows" and last is not None:
            rule = self.shares(step, last)
        elif step.part == "weights" and last is not None and last.letter == OMEGA:
            rule = self.softmax(step, last, prefix)
        elif step.part == "dropout" and last is not None:
            share = float(getattr(layer, "dropout", 0.0))
            clean = np.isclose(values, 0) | np.isclose(values, last.values / (1 - share), rtol=1e-4, atol=1e-6)
            if clean.all():
                rule = {"rule": "drop", "parents": (last.key,), "factor": (share,), "hidden": last.hidden}
        stage = Stage(step.key, step.title, step.text)
        node = Node(step.key, letter, step.title, stage.key, "pair", values, hidden=step.hidden, source=source)
        return self.add(replace(node, **rule), stage)

    def shares(self, step: Step, weights: Node) -> dict[str, Any]:
        """Each row by its sum, where that gives the numbers."""
        sums = weights.values.sum(-1)
        total = Node("first.total", "Σ", "The sum of these", weights.stage, "total", sums, "total", (weights.key,))
        self.add(total)
        return self.ruled("ratio", step.values, lambda: weights.values / sums[..., None], weights.key, total.key)

    def layer_of_scores(self) -> nn.Module | None:
        """The layer that has scores: this one, or the first of those side by side in it."""
        return next((m for m in self.layer.modules() if isinstance(m, MaskedAttention)), None)

    def exact(self, values: Numbers) -> tuple[Numbers, SourceLine | None]:
        """The products as the layer made them, head by head if need be: steps divide by the scale, which rounds."""
        products = [one for one in self.operations.ran if one.name in ("matmul", "__matmul__", "einsum")]
        exact = []
        for part in (values, *values):
            for one in products:
                result = one.result.detach().float().numpy()
                if result.size == part.size and np.allclose(result.reshape(part.shape), part, rtol=1e-5, atol=1e-6):
                    exact.append((result.reshape(part.shape), one.source))
                    break
            if len(exact) == 1 and exact[0][0].shape == values.shape:
                return exact[0]
        if len(exact) != len(values):
            return values, None
        return np.stack([numbers for numbers, _ in exact]), exact[0][1]

    def softmax(self, step: Step, scores: Node, prefix: str) -> dict[str, Any]:
        """exp and sum beside the weights, where the weights are these."""
        hidden = np.zeros(step.values.shape, dtype=bool) if step.hidden is None else step.hidden
        shown = np.where(hidden, -np.inf, scores.values)
        if np.nanmax(shown, initial=-np.inf) > MOST_EXP or shown.shape != step.values.shape:
            return {}
        exp = np.exp(shown)
        sink = getattr(getattr(self.layer_of_scores(), "normalizer", None), "phantom", None)
        phantom = None if sink is None else sink(torch.zeros(1))
        beside = np.zeros(len(exp)) if phantom is None else phantom.detach().exp().numpy()
        if len(beside) != len(exp):
            return {}
        total = exp.sum(-1) + beside[:, None]
        if not flow_rules.same(exp / total[..., None], step.values):
            return {}
        source = self.operations.source(step.values)
        self.stages.setdefault(step.key, Stage(step.key, step.title, step.text))
        beside_weights: dict[str, Any] = {"stage": step.key, "source": source}
        self.add(
            Node(
                f"{prefix}exp",
                f"e^{OMEGA}",
                "e to the score",
                kind="pair",
                values=exp,
                rule="exp",
                parents=(scores.key,),
                hidden=step.hidden,
                **beside_weights,
            )
        )
        self.add(
            Node(
                f"{prefix}total",
                "Σ",
                "The sum of these",
                kind="total",
                values=total,
                rule="total",
                parents=(f"{prefix}exp",),
                factor=tuple(map(float, beside)) if beside.any() else (),
                **beside_weights,
            )
        )
        return {"rule": "ratio", "parents": (f"{prefix}exp", f"{prefix}total"), "source": source}

    # What is read

    def context(self, step: Step) -> Node:
        """The context vectors: values by their weights."""
        stage = Stage("context", step.title, step.text)
        v = self.nodes.get("v") or self.nodes["inputs"]
        if (of_both := self.with_summaries(step, v)) is not None:
            return self.add(of_both, stage)
        weights = [
            n for n in self.nodes.values() if n.kind == "pair" and n.letter == ALPHA and not n.key.startswith("drop")
        ]
        node = Node(step.key, "z", step.title, "context", "vector", step.values)
        if weights and len(weights[-1].values) % len(v.values) == 0:
            rule = self.ruled(
                "mix", step.values, lambda: flow_rules.mix(weights[-1].values, v.values), weights[-1].key, v.key
            )
            node = replace(node, **rule)
        return self.add(node, stage)

    def with_summaries(self, step: Step, v: Node) -> Node | None:
        """The context vectors as sums over the tokens and over summaries of blocks, if a product was of both.

        A summary stands where its block ends: at the first token that may read it. No map shows it, for it is no sum of
        values.
        """
        h, t, d = step.values.shape
        block = getattr(self.layer, "block", None)
        for one in self.operations.ran if isinstance(block, int) else ():
            read = [x.detach().float().numpy()[0] for x in one.given if isinstance(x, torch.Tensor) and x.ndim == 4]
            if one.name not in ("matmul", "__matmul__") or len(read) != 2 or read[0].shape[:2] != (h, t):
                continue
            weights, rows = read
            if rows.shape[0] != 1 or rows.shape[1] <= t or not flow_rules.same(rows[:, :t], v.values):
                continue
            if not flow_rules.same(weights @ rows, step.values):
                continue
            more, ends = rows[:, t:], (np.arange(rows.shape[1] - t) + 1) * block - 1
            if ends[-1] >= t or any(weights[:, :end, t + i].any() for i, end in enumerate(ends)):
                continue
            placed, by = np.zeros((1, t, d), dtype=np.float32), np.zeros((h, t, t), dtype=np.float32)
            placed[:, ends], by[:, :, ends] = more, weights[:, :, t:]
            stage = Stage(
                "weights", "Summaries, weights", "Weights of the latest tokens, and of the blocks that have ended."
            )
            parts: tuple[tuple[str, str, str, Kind, Numbers], ...] = (
                ("summaries", "u", "What a block comes to, where it ends", "vector", placed),
                ("weights", ALPHA, "Token weights", "pair", weights[:, :, :t]),
                ("weights.summaries", "β", "Block weights", "pair", by),
            )
            for key, letter, title, kind, values in parts:
                hidden = values == 0 if kind == "pair" else None
                self.add(Node(key, letter, title, stage.key, kind, values, hidden=hidden, source=one.source), stage)
            sum_of = expression("hic", f"weights:hij * {v.key}:0jc + weights.summaries:hij * summaries:0jc", "", None)
            parents = ("weights", v.key, "weights.summaries", "summaries")
            return Node(step.key, "z", step.title, "context", "vector", step.values, "sum", parents, expression=sum_of)
        return None

    # The end

    def output(self, step: Step) -> None:
        """What the layer gives: nothing new where it is the context vectors, else heads side by side or a matrix."""
        last = [n for n in self.nodes.values() if n.kind == "vector" and n.stage.split(".")[0] in ("context", "merge")]
        if last and np.array_equal(flow_rules.flat(last[-1].values)[None], step.values):
            if len(last[-1].values) == 1:
                return
            self.add(
                Node(
                    step.key,
                    "y",
                    "The heads side by side",
                    "output",
                    "vector",
                    step.values,
                    rule="join",
                    parents=(last[-1].key,),
                ),
                Stage("output", step.title, "The heads, one behind the other."),
            )
            return
        self.vector(step, "y", Stage("output", step.title, step.text))


def flow_of(layer: Attention, steps: Sequence[Step], operations: Operations, *, first_way: bool = False) -> Flow:
    """The flow of one layer; with `first_way` masked as the chapter does at first, which gives the same numbers."""
    builder = Builder(layer, steps, operations)
    scored = any(step.part == "scores" for step in steps)
    states = [step for step in steps if step.shape == "state" and not step.key.endswith(".written")]
    by_state = bool(states) and not scored
    for step in steps:
        first = step.key.partition(".")[0]
        if first_way != (first == "first") and (first == "first" or step.key in ("masked", "weights", "dropout")):
            continue  # what only the other way does
        if step.key in ("inputs", "embedded"):
            letter = "x" if step.key == "inputs" else "e"
            builder.add(
                Node(step.key, letter, step.title, step.key, "vector", step.values),
                Stage(step.key, step.title, step.text),
            )
        elif step.shape == "vectors" and step.part == "projections":
            raw = step.key.endswith(".raw") or f"{step.key}.raw" not in builder.steps
            letter = LETTERS.get(step.key) or EXTRAS.get(step.key.partition(".")[2]) or step.title.lower()
            stage = (
                Stage("projections", "Projections", "What each token asks, offers and hands over.")
                if raw
                else Stage("prepared", "Queries and keys, prepared", step.text)
            )
            builder.vector(step, letter, stage)
        elif step.shape == "pairs" and not (by_state and step.part == "weights"):
            builder.pair(step)
        elif step.key == "context":
            if not by_state or not remember(builder, states):
                builder.context(step)
        elif first == "merge":
            builder.vector(step, "z", Stage(step.key, step.title, step.text))
        elif step.key == "output":
            if by_state and "context" not in builder.steps:
                show(builder, states)
            builder.output(step)
        elif step.part == "output" and step.shape == "vectors":
            builder.vector(step, "h", Stage(step.key, step.title, step.text))
    return Flow(list(builder.stages.values()), [n for n in builder.nodes.values() if n.stage in builder.stages])


def to_next_word(
    flow: Flow,
    block: Float[np.ndarray, "t c"],
    probabilities: Float[np.ndarray, "t v"],
    labels: Callable[[Sequence[int]], list[str]],
) -> Flow:
    """The flow of a layer in a model goes on to what its block gives, and to the likeliest next words at each token."""
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :NEXT_WORDS]
    chosen = np.take_along_axis(probabilities, best, axis=1)
    likeliest = tuple(tuple(labels(row)) for row in best.tolist())
    stages = [
        Stage("block", "Block", "The layer's output, and what the MLP makes of it, are added to the input."),
        Stage("next", "Next word", "The last block's output gives each word a logit, a softmax its probability."),
    ]
    nodes = [
        Node("block", "h", "What the block gives to the next one", "block", "vector", block[None]),
        Node("next", "p", "The likeliest next words", "next", "words", chosen, parents=("block",), labels=likeliest),
    ]
    return Flow([*flow.stages, *stages], [*flow.nodes, *nodes])


def _columns(operations: Operations) -> dict[bytes, tuple[Ran, int]]:
    """Every column that a matrix made of the tokens, by its numbers; the first to make it counts."""
    columns: dict[bytes, tuple[Ran, int]] = {}
    for one in operations.linear:
        result = one.result.detach().float().numpy()
        for i, column in enumerate(result.reshape(-1, result.shape[-1]).T):
            columns.setdefault(column.tobytes(), (one, i))
    return columns
