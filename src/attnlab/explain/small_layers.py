"""The layers of variants in sizes whose numbers can be read, with the same ones in every matrix that several have."""

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.base import Attention
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.shared import Shared
from attnlab.build import Factory
from attnlab.errors import UsageError
from attnlab.explain.chapter import CONTEXT, SEED, TOKENS, WIDTH, BookExample, inputs
from attnlab.options import options_of

SIZE_KEYS = ("d_out", "n_heads")  # of an example's settings: the others are what the variant is
SIZES_OF_HEADS = (*SIZE_KEYS, "head_dim")  # which a layer of kinds divides among them
LEAST_LATENT = 2  # numbers of a latent whose width follows from that of the layer
# Sizes that are tried in turn, until a variant accepts one; with `d_model` above 3, zeros follow the three numbers.
SIZES: tuple[tuple[int, Mapping[str, Any]], ...] = (
    (WIDTH, {"n_heads": 2, "head_dim": 2}),
    (WIDTH, {"n_heads": 2, "d_out": 4}),
    (WIDTH, {"n_heads": 2, "head_dim": 4}),
    (WIDTH, {"n_heads": 2, "d_out": 4, "head_dim": None}),
    (4, {"n_heads": 2}),
    (8, {"n_heads": 2}),
    (8, {"n_heads": 4}),
    (16, {"n_heads": 4}),
)


class Built(NamedTuple):
    """The layers of a variant up to the one that is shown, and what was changed to make them this small."""

    layers: list[Attention]
    x: Float[Tensor, "1 t c"]
    notes: list[str]
    tokens: Sequence[str] = TOKENS


def build(
    factories: Sequence[Factory],
    *,
    n_layers: int,
    layer: int | None,
    examples: Sequence[BookExample],
    seed: int | None,
    init: str | None,
    typed: frozenset[str],
    tokens: Sequence[str] = TOKENS,
) -> list[Built]:
    """Each variant in the first sizes that all accept; their weights are drawn one after the other, as they are made,
    and a second variant is dealt those of the first wherever it has the same matrix, so that only the rule differs.

    `examples` are the chapter's settings of each variant, if it shows all of them: the first one's sizes, seed and
    drawing hold for all. `typed` are the keys that the user set, which stay as they are.
    """
    if layer is not None and layer > n_layers:
        raise UsageError(f"layer ({layer}) must be at most model.n_layers ({n_layers})")
    example = examples[0] if examples else None
    seed = (example.seed if example else SEED) if seed is None else seed
    init = (example.init if example else "linear") if init is None else init
    n_heads = max(_heads_needed(factory) for factory in factories)
    own: list[Mapping[str, Any]] = [
        {**other.settings, **{k: v for k, v in examples[0].settings.items() if k in SIZE_KEYS}} for other in examples
    ]
    chapters: list[tuple[int, list[Mapping[str, Any]]]] = [(WIDTH, own)] if examples else []
    refusals: list[Exception] = []
    for d_model, settings in (*chapters, *((width, [size] * len(factories)) for width, size in SIZES)):
        try:
            every = [
                _built(f, d_model, _with_heads(each, n_heads), n_layers, layer, seed, init, typed, tokens)
                for f, each in zip(factories, settings, strict=True)
            ]
            for other in every[1:]:
                deal(every[0].layers, other.layers)
            return every
        except (UsageError, ValueError, TypeError, RuntimeError) as error:
            refusals.append(error)
    raise UsageError(f"{factories[0].key}: no small size fits the chapter's sentence; the first refusal: {refusals[0]}")


def _built(
    factory: Factory,
    d_model: int,
    settings: dict[str, Any],
    n_layers: int,
    layer: int | None,
    seed: int,
    init: str,
    typed: frozenset[str],
    tokens: Sequence[str],
) -> Built:
    notes: list[str] = []
    build_layer = _with(_shortened(factory, typed, notes), settings, typed)
    if d_model < 2 * LEAST_LATENT:
        build_layer = _with_latents(build_layer, typed, notes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [build_layer(d_model, layer=i, n_layers=n_layers, context=CONTEXT) for i in range(n_layers)]
        if init == "uniform":
            torch.manual_seed(seed)
            _draw_uniform(layers)
    shown = next((i for i, one in enumerate(layers) if one.traits.requires), 0) if layer is None else layer - 1
    x = inputs(d_model, tokens)
    shared = Shared()
    with torch.no_grad():
        for one in layers[: shown + 1]:
            one(x, shared)
    if d_model > WIDTH:
        notes.append(f"this variant cannot be {WIDTH} wide, so {d_model - WIDTH} zeros follow each vector")
    if drawn := [word for word in dict.fromkeys(tokens) if word not in TOKENS]:
        notes.append(
            f"drawn from their letters are the vectors of {', '.join(drawn)}: only training would give them sense"
        )
    return Built(layers[: shown + 1], x, notes, tokens)


@torch.no_grad()
def deal(one: Sequence[Attention], other: Sequence[Attention]) -> None:
    """Give the layers of `other` the numbers of `one` in every parameter that both have in the same shape.

    Heads side by side, each a layer of its own, have together what one layer of several heads has at once: their
    matrices, one below the other.
    """
    for mine, theirs in zip(one, other, strict=False):
        given, taken = stacked(mine), stacked(theirs)
        for name, parts in taken.items():
            if name in given and (numbers := torch.cat(given[name])).shape == torch.cat(parts).shape:
                for part, piece in zip(parts, numbers.split([len(part) for part in parts]), strict=True):
                    part.copy_(piece)
        _pool(mine, theirs)


def _pool(one: Attention, other: Attention) -> None:
    """Give heads of keys and values that several queries share the means of those that the queries have in the other.

    Source: how GQA, arXiv 2305.13245, makes its heads of those of multi-head attention.
    """
    if not (type(one) is type(other) is MultiHeadAttention):
        return
    few, many = sorted((one, other), key=lambda layer: layer.n_kv_heads)
    if few.head_dim == many.head_dim and many.n_kv_heads % few.n_kv_heads == 0:
        for shared, own in ((few.qkv.to_k, many.qkv.to_k), (few.qkv.to_v, many.qkv.to_v)):
            heads = own.weight.unflatten(0, (few.n_kv_heads, many.n_kv_heads // few.n_kv_heads, -1))
            shared.weight.copy_(heads.mean(dim=1).flatten(0, 1))


def stacked(layer: Attention) -> dict[str, list[Tensor]]:
    """The parameters of a layer by name; those of heads side by side in a list, under the name that one head gives."""
    parameters: dict[str, list[Tensor]] = {}
    for name, parameter in layer.named_parameters():
        if parameter.ndim:  # a scalar has no parts to be dealt
            parameters.setdefault(re.sub(r"^heads\.\d+\.", "", name), []).append(parameter.data)
    return parameters


def _draw_uniform(layers: Sequence[Attention]) -> None:
    """Matrices from 0 .. 1, one after the other, as the chapter's first class draws them: (in, out), then turned."""
    with torch.no_grad():
        for module in (module for one in layers for module in one.modules()):
            if isinstance(module, nn.Linear):
                module.weight.copy_(torch.rand(module.in_features, module.out_features).T)


def _takes(factory: Factory) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(factory.target).parameters


def _heads_needed(factory: Factory) -> int:
    """Several query heads must share a key for it to be seen; of variants side by side, one decides for all."""
    groups, kinds = factory.settings.get("n_kv_heads"), factory.settings.get("kinds")
    own = 2 * groups if isinstance(groups, int) and groups > 1 else 1
    return max([own, *map(_heads_needed, kinds.values())] if isinstance(kinds, Mapping) else [own])


def _with_heads(settings: Mapping[str, Any], n_heads: int) -> dict[str, Any]:
    """The settings with at least so many heads, where they say how many."""
    more = {"n_heads": max(settings["n_heads"], n_heads)} if "n_heads" in settings else {}
    return {**settings, **more}


def _with(factory: Factory, settings: dict[str, Any], typed: frozenset[str]) -> Factory:
    """The factory with these settings where its class takes them and the user did not set them; kinds inside, too."""
    takes = _takes(factory)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in takes.values())
    free = {
        name: value
        for name, value in settings.items()
        if (name in takes or (open_ended and name in ("n_heads", "head_dim")))
        and f"{factory.key}.{name}" not in typed
        and not (name == "n_heads" and "model.n_heads" in typed)
    }
    inner = factory.settings
    if isinstance(inner.get("kinds"), Mapping):
        rest = (
            settings
            if "d_out" not in takes
            else {k: v for k, v in settings.items() if k not in (*takes, *SIZES_OF_HEADS)}
        )
        kinds = {name: _with(kind, rest, typed) for name, kind in inner["kinds"].items()}
        free["kinds"] = kinds
    return Factory(factory.target, inner | free, factory.key)


def _with_latents(factory: Factory, typed: frozenset[str], notes: list[str]) -> Factory:
    """The factory with latents of two numbers where half of so narrow a layer would be one, which shows no mixing."""
    declared = options_of(factory.target) or {}
    settings = dict(factory.settings)
    for name, option in declared.items():
        key = f"{factory.key}.{name}"
        if option.null.startswith("d_model / 2") and settings.get(name) is None and key not in typed:
            settings[name] = LEAST_LATENT
            notes.append(f"{key} is {LEAST_LATENT} here, so that the latent mixes numbers")
    if isinstance(settings.get("kinds"), Mapping):
        settings["kinds"] = {name: _with_latents(kind, typed, notes) for name, kind in settings["kinds"].items()}
    return Factory(factory.target, settings, factory.key)


def _shortened(factory: Factory, typed: frozenset[str], notes: list[str]) -> Factory:
    """The factory with lengths that six tokens can show, down to what its slots are made with."""
    declared = options_of(factory.target) or {}

    def fitting(name: str, value: Any, key: str) -> Any:
        if isinstance(value, Factory):
            return _shortened(value, typed, notes)
        if isinstance(value, Mapping):
            return {n: fitting(n, v, f"{key}.{n}") for n, v in value.items()}
        most = declared[name].short if name in declared else None
        if most is not None and type(value) is int and value > most and key not in typed:
            notes.append(f"{key} is {most} here, not {value}, so that six tokens show what it does")
            return most
        return value

    settings = {n: fitting(n, v, f"{factory.key}.{n}") for n, v in factory.settings.items()}
    return Factory(factory.target, settings, factory.key)
