"""From a layer and its inputs to the steps it takes: every number is one that the layer's own methods made."""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.base import Attention, HeadedAttention
from attnlab.attention.evaluating import evaluating
from attnlab.attention.feature_map import FeatureMap
from attnlab.attention.head_wrapper import HeadWrapper
from attnlab.attention.heads import Heads
from attnlab.attention.position import Position
from attnlab.attention.score import Score
from attnlab.attention.shared import Shared
from attnlab.attention.softmax import SoftmaxAttention
from attnlab.attention.traits import rule_of
from attnlab.explain.decode_state import memory_steps
from attnlab.explain.record_calls import Call, watched
from attnlab.explain.step_parts import Part
from attnlab.explain.steps import Step

BESIDE = {
    "asked": "What queries ask of the scores",
    "carried": "What keys carry for the scores",
    "rows": "Rows that decoding keeps",
}
"""What tokens make beside q, k and v, where its name alone does not say it."""


@torch.no_grad()
def trace(layer: Attention, x: Float[Tensor, "1 t c"], shared: Shared) -> list[Step]:
    """The steps of one layer for one sentence, without dropout; `shared` is what the layers below published."""
    steps = [vectors("inputs", "inputs", "Input vectors", "One vector per token: what the layer is given.", x[:, None])]
    with evaluating(layer):
        steps += _inner(layer, x, shared)
        y = layer(x, shared.copy())
        steps.append(
            vectors("output", "output", "Output", "What the layer gives to the rest of the model.", y[:, None])
        )
        steps += memory_steps(layer, x, shared)
    return steps


@torch.no_grad()
def dropped(layers: Sequence[SoftmaxAttention], x: Float[Tensor, "1 t c"], seed: int, hidden: np.ndarray) -> Step:
    """One draw of dropout on the weights, as in training: some become 0, the others grow so that the mean stays.

    `layers` stand side by side. `hidden` are the pairs that may not be read, whose weight is 0 without a draw.
    """
    pos = torch.arange(x.size(1))
    weights: list[Tensor] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in layers:
            heads = layer.project(x)
            eye = torch.eye(x.size(1)).expand(1, heads.v.size(1), -1, -1)
            was = layer.training
            layer.train()
            try:
                weights.append(layer.attend_explicitly(heads._replace(v=eye), pos, pos))
            finally:
                layer.train(was)
    text = (
        f"One draw of dropout: while training, each weight is 0 with probability {layers[0].dropout:g}; the rest are "
        f"divided by {1 - layers[0].dropout:g}. What follows is computed without it, as after training."
    )
    title = "Weights after dropout (training only)"
    return pairs("dropout", "dropout", title, text, torch.cat(weights, dim=1), hidden)


@torch.no_grad()
def masked_afterwards(layer: SoftmaxAttention, x: Float[Tensor, "1 t c"]) -> list[Step]:
    """The chapter's first way to mask: weights of all keys, those of later ones set to 0, each row divided by its sum.

    The second way sets scores to -inf before the softmax, which is how layers compute; the weights are the same.
    """
    pos = torch.arange(x.size(1))
    visible = layer.visible(pos, pos)
    every = layer.normalizer(layer.scores(layer.project(x), pos, pos, visible), torch.ones_like(visible))
    left = every * visible
    whole = left / left.sum(dim=-1, keepdim=True)
    hidden = ~visible.expand(left.shape)[0].numpy()
    first = "The chapter's first way to mask"
    return [
        pairs("first.all", "weights", "First way: weights of all keys", f"{first}: softmax, as without a mask.", every),
        pairs("first.tril", "weights", "First way: times tril", "Rows no longer sum to 1.", left, hidden),
        pairs(
            "first.rows",
            "weights",
            "First way: rows divided by their sums",
            "The weights that the second way gives below: scores to -inf, then softmax.",
            whole,
            hidden,
        ),
    ]


def _inner(layer: Attention, x: Tensor, shared: Shared) -> list[Step]:
    if isinstance(layer, HeadWrapper):
        return _side_by_side([_inner(part, x, shared) for part in layer.parts])
    if isinstance(layer, HeadedAttention):
        return _headed(layer, x, shared)
    weights = layer.weights(x, shared.copy())
    return [] if weights is None else [_implied(weights)]


def _headed(layer: HeadedAttention, x: Tensor, shared: Shared) -> list[Step]:
    mods = [module for module in layer.modules() if isinstance(module, Score)]
    changing: list[tuple[nn.Module, str]] = [(m, "forward") for m in layer.children() if isinstance(m, FeatureMap)]
    changing += [(m, "rotate") for m in layer.children() if isinstance(m, Position)]
    changing += [(mod, "prepare") for mod in mods]
    with watched(changing) as calls:
        heads = layer.share(layer.project(x), shared.copy())
    steps = _projections(x, heads, calls)
    if isinstance(layer, SoftmaxAttention):
        steps += _softmax(layer, heads)
    elif (weights := layer.weights(x, shared.copy())) is not None:
        steps.append(_implied(weights))
    o = layer.mix(heads)
    steps.append(vectors("context", "context", "Context vectors", "The output of each head for each token.", o))
    after = [(module, "forward") for module in layer.children() if not isinstance(module, nn.Linear)]
    with watched(after) as calls:
        layer.merge(o, heads)
    for call in calls:
        given, result = call.arguments[0], call.result
        if isinstance(result, Tensor) and result.ndim == 4 and not torch.equal(given, result):
            name = type(call.module).__name__
            steps.append(vectors(f"merge.{name}", "context", f"Context after {name}", intro(call.module), result))
    return steps


def _projections(x: Tensor, heads: Heads, calls: Sequence[Call]) -> list[Step]:
    """Queries, keys and values, and whatever else the tokens make; before a rotation or feature map, too."""
    steps: list[Step] = []
    if not torch.equal(heads.v, heads.q):
        changed = [call for call in calls if not _same(call)]
        raw = [a for call in changed for a in call.arguments[:2] if isinstance(a, Tensor) and a.ndim == 4]
        sentences = " ".join(dict.fromkeys(intro(call.module) for call in changed))
        whole = [a for a in raw if a.shape[1:3] in (heads.q.shape[1:3], heads.k.shape[1:3])]
        if len(whole) == len(raw) >= 2:
            text = "As the projections make them."
            steps.append(vectors("q.raw", "projections", "Queries, as projected", text, raw[0]))
            steps.append(vectors("k.raw", "projections", "Keys, as projected", text, raw[1]))
        steps.append(
            vectors("q", "projections", "Queries q", f"What each token asks for. {sentences}".strip(), heads.q)
        )
        steps.append(vectors("k", "projections", "Keys k", "What each token can be found by.", heads.k))
    if not torch.equal(heads.v, x[:, None]):
        steps.append(vectors("v", "projections", "Values v", "What each token hands over when it is read.", heads.v))
    t = heads.v.size(2)
    for name, extra in heads.beside().items():
        if extra.ndim in (3, 4) and extra.size(0) == 1 and extra.size(2) == t:
            wide = extra if extra.ndim == 4 else extra[..., None]
            title = BESIDE.get(name) or name.replace("_", " ").capitalize()
            steps.append(
                vectors(f"extra.{name}", "projections", title, "Made from each token beside q, k and v.", wide)
            )
    return steps


def _same(call: Call) -> bool:
    outs = call.result if isinstance(call.result, tuple) else (call.result,)
    return all(a is b or (a.shape == b.shape and torch.equal(a, b)) for a, b in zip(call.arguments, outs, strict=False))


def _softmax(layer: SoftmaxAttention, heads: Heads) -> list[Step]:
    """Scores, their modifiers, masking, weights: one pass, or several where maps are combined."""
    pos = torch.arange(heads.q.size(2), device=heads.q.device)
    seams: list[tuple[nn.Module, str]] = [(layer, name) for name in ("visible", "content_mask", "scores")]
    seams += [(layer.position, "bias"), (layer.normalizer, "forward")]
    seams += [(mod, name) for mod in layer.score_mods for name in ("apply_scores", "apply_weights")]
    with watched(seams) as calls:
        weights = layer.explicit_weights(heads, pos, pos)
    starts = [i for i, call in enumerate(calls) if call.name == "visible"]
    passes = [calls[a:b] for a, b in zip(starts, [*starts[1:], len(calls)], strict=True)]
    passes = [part for part in passes if any(call.name == "scores" for call in part)]
    steps: list[Step] = []
    for i, part in enumerate(passes):
        steps += _pass(layer, part, f"{i + 1}." if len(passes) > 1 else "", f"map {i + 1}: " if len(passes) > 1 else "")
    last = steps[-1].values if steps else None
    if last is None or not np.array_equal(last, plain(weights)):
        hidden = steps[-1].hidden if len(passes) == 1 and steps else None
        steps.append(pairs("map", "weights", "The weights that act", intro(layer), weights, hidden))
    return steps


def _pass(layer: SoftmaxAttention, calls: Sequence[Call], key: str, before: str) -> list[Step]:
    by_name = {name: [call for call in calls if call.name == name] for name in {call.name for call in calls}}
    score_calls = by_name.get("apply_scores", [])
    scores = by_name["scores"][0].result
    bias = next((call.result for call in by_name.get("bias", []) if call.result is not None), None)
    scaled = score_calls[0].arguments[0] if score_calls else scores if bias is None else scores - bias
    steps: list[Step] = []

    def add(name: str, part: Part, title: str, text: str, values: Tensor, hidden: np.ndarray | None = None) -> None:
        steps.append(
            pairs(f"{key}{name}", part, f"{before}{title}".capitalize() if before else title, text, values, hidden)
        )

    text = "The dot product of a query with each key: large where they point the same way."
    text += " The scale is 1 here, so they stay as they are." if layer.scale == 1 else ""
    add("dot", "scores", "Scores q · k", text, scaled / layer.scale)
    if layer.scale != 1:
        add(
            "scaled",
            "scores",
            "Scaled scores",
            f"Times {layer.scale:.4g}, so that their spread stays the same.",
            scaled,
        )
    for call in score_calls:
        if _says(call.module, "apply_scores", Score):
            name = type(call.module).__name__
            add(f"score.{name}", "scores", f"Scores after {name}", intro(call.module), call.result)
    if bias is not None:
        add("bias", "scores", f"Scores with {type(layer.position).__name__}", intro(layer.position), scores)
    visible = by_name["visible"][0].result.expand(scores.shape)
    chosen = next((call.result for call in by_name.get("content_mask", []) if call.result is not None), None)
    if chosen is not None:
        visible = visible & chosen
    hidden = ~visible[0].cpu().numpy()
    if hidden.any():
        rule = intro(layer) if chosen is not None else intro(layer.mask)
        add("masked", "scores", "Scores that may be read", rule, scores, hidden)
    for i, call in enumerate(by_name.get("forward", [])):
        if call.result.shape == scores.shape:
            title = f"Weights by {type(layer.normalizer).__name__.lower()}"
            add("weights" if i == 0 else f"weights.{i}", "weights", title, intro(layer.normalizer), call.result, hidden)
    for call in by_name.get("apply_weights", []):
        if _says(call.module, "apply_weights", Score):
            name = type(call.module).__name__
            add(f"weights.{name}", "weights", f"Weights after {name}", intro(call.module), call.result)
    return steps


def _says(module: nn.Module, method: str, base: type[nn.Module]) -> bool:
    """Whether the class of a module has a method of its own, and not its base's, which changes nothing."""
    return getattr(type(module), method) is not getattr(base, method)


def _side_by_side(traced: Sequence[list[Step]]) -> list[Step]:
    """The steps of several layers that stand side by side, as heads of one where they agree."""
    keys = list(dict.fromkeys(step.key for steps in traced for step in steps))
    joined: list[Step] = []
    for key in keys:
        same = [step for steps in traced for step in steps if step.key == key]
        first = same[0]
        fits = len(same) == len(traced) and all(s.values.shape[1:] == first.values.shape[1:] for s in same)
        if fits:
            masks = [s.hidden if s.hidden is not None else np.zeros(s.values.shape, dtype=bool) for s in same]
            hidden = np.concatenate(masks) if first.hidden is not None else None
            values = np.concatenate([s.values for s in same])
            text = _said_of_each([(len(s.values), s.text) for s in same])
            joined.append(Step(key, first.part, first.title, text, first.shape, values, hidden))
            continue
        for i, steps in enumerate(traced):
            joined += [
                Step(f"{key}@{i}", s.part, f"{s.title} (head {i + 1})", s.text, s.shape, s.values, s.hidden)
                for s in steps
                if s.key == key
            ]
    return joined


def _said_of_each(texts: Sequence[tuple[int, str]]) -> str:
    """One sentence of several layers with so many heads each: which heads it is true of, where they differ."""
    heads: dict[str, list[str]] = {}
    first = 1
    for count, text in texts:
        heads.setdefault(text, []).extend(str(head) for head in range(first, first + count))
        first += count
    if len(heads) == 1:
        return texts[0][1]
    return " ".join(f"Head{'s' if len(which) > 1 else ''} {', '.join(which)}: {text}" for text, which in heads.items())


def _implied(weights: Tensor) -> Step:
    text = (
        "No scores and no normaliser here: how much of each value is in each output, found by feeding the identity "
        "in place of the values through the code that mixes them."
    )
    later = (weights[0] == 0).triu(1).cpu().numpy()
    return pairs("map", "weights", "The implied map", text, weights, later if later.any() else None)


def intro(module: nn.Module) -> str:
    """What a class says of itself: the first paragraph of its docstring, on one line, and its rule."""
    first, rule = paragraphs(module)[0], rule_of(type(module))
    return f"{first} Rule: {rule}." if rule and rule not in first else first


def paragraphs(module: nn.Module) -> list[str]:
    """The paragraphs of a class's docstring, each on one line; its name where it has none of its own."""
    text = inspect.cleandoc(type(module).__dict__.get("__doc__") or type(module).__name__)
    return [" ".join(part.split()) for part in text.split("\n\n")]


def slots(layer: Attention) -> Iterator[tuple[str, str]]:
    """The choices inside a layer that do something, with what each says of itself."""
    shown: set[type] = {type(layer)}
    for module in layer.modules():
        kind = type(module)
        neutral = getattr(kind, "neutral", False)
        if kind in shown or neutral or not kind.__module__.startswith("attnlab") or not kind.__doc__:
            continue
        shown.add(kind)
        yield kind.__name__, intro(module)


def vectors(key: str, part: Part, title: str, text: str, values: Float[Tensor, "1 h t d"]) -> Step:
    """A step that holds a vector per head and token."""
    return Step(key, part, title, text, "vectors", plain(values))


def pairs(
    key: str, part: Part, title: str, text: str, values: Float[Tensor, "1 h t s"], hidden: np.ndarray | None = None
) -> Step:
    """A step that holds a number per head, query and key."""
    return Step(key, part, title, text, "pairs", plain(values), hidden)


def plain(values: Any) -> np.ndarray:
    """The only entry of a batch as float32."""
    return values[0].detach().to("cpu", torch.float32).numpy().copy()
