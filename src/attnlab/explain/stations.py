"""From the chapter's first class to layers of today, one change at a time, each beside the one that it changes."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from attnlab.attention.cost import Cost
from attnlab.config.messages import compose_for_chapter
from attnlab.explain import chapter
from attnlab.explain.compare import Pairing
from attnlab.explain.explanations import built, explained_each
from attnlab.explain.steps import Explanation

SPREAD = ("attention/feature_map=unit", "attention/output_norm=rms")  # what the delta rule needs to be stable


class Station(NamedTuple):
    """A variant, the earlier one that it changes, and the one change."""

    name: str
    change: str
    beside: str | None = None  # the variant that it is compared with; None for the first
    token: str = chapter.FOCUS  # the one whose weights show the change
    settings: tuple[str, ...] = ()
    beside_settings: tuple[str, ...] = ()
    layer: int | None = None

    @property
    def command(self) -> str:
        """What is typed to see all numbers of this station."""
        against = () if self.beside is None or self.beside_settings else (f"against={self.beside}",)
        layer = () if self.layer is None else (f"layer={self.layer}",)
        typed = (f"attention={self.name}", *against, *self.settings, *layer)
        return " ".join(("attnlab explain", *typed))


CHAPTER = tuple(
    Station(name, example.change, beside)
    for (name, example), beside in zip(
        chapter.BOOK_EXAMPLES.items(), [None, *list(chapter.BOOK_EXAMPLES)[:-1]], strict=True
    )
)
BEYOND = (
    Station(
        "gqa",
        "Two query heads share one head of keys and values: W_k and W_v shrink, and decoding keeps half as much.",
        "multi_head",
        "step",
    ),
    Station(
        "mla",
        "Keys and values of all heads are made of one short latent per token, which is all that decoding keeps.",
        "multi_head",
        "step",
    ),
    Station(
        "sliding_window",
        "A token reads the latest keys only, here three, so what decoding keeps stops growing.",
        "multi_head",
        "step",
    ),
    Station(
        "linear",
        "Features phi(q) and phi(k) in place of the exponential: the sum over keys is then one matrix per head, which "
        "is all that decoding keeps, however long the text.",
        "multi_head",
        "step",
    ),
    Station(
        "linear",
        "The delta rule: what the matrix already returns for a key is taken off before the token is written, so that "
        "it is corrected and not added to. Beside it stands the same layer that only adds.",
        "linear",
        "step",
        ("attention/write=delta", *SPREAD),
        SPREAD,
    ),
    Station(
        "hybrid",
        "No new rule, but layers that differ: three with a window, then one that reads all. Here the fourth layer.",
        "sliding_window",
        "step",
        layer=4,
    ),
)
STATIONS = CHAPTER + BEYOND


class StationExample(NamedTuple):
    """What is seen at a station: the variant, the one it changes, and what a layer of each costs for the sentence."""

    station: Station
    example: Explanation
    costs: list[Cost]  # of this variant, then of the one that it changes
    pairing: Pairing | None


def all_examples(stations: Sequence[Station] = STATIONS) -> Iterator[StationExample]:
    """Each station of the path, computed."""
    compose = cache(lambda name, settings: compose_for_chapter(name, None, (), settings))
    for station in stations:
        variants = [compose(station.name, station.settings)]
        if station.beside is not None:
            variants.append(compose(station.beside, station.beside_settings))
        layers = built(variants, layer=station.layer, overrides=station.settings)
        one, *rest = explained_each(variants, layers, station.token)
        if station.beside_settings:
            one, rest = replace(one, name="delta"), [replace(rest[0], name="add")]
        costs = [each.layers[-1].cost(len(chapter.TOKENS)) for each in layers]
        yield StationExample(station, one, costs, Pairing(one, rest[0]) if rest else None)


def relative_of(trained: Explanation, examples: Sequence[StationExample]) -> Pairing:
    """A layer that was trained, beside that of the path which is made of the most alike parts, whatever their sizes."""
    other = min((example.example for example in examples), key=lambda e: len(_parts(e) ^ _parts(trained)))
    return Pairing(replace(trained, name="your layer"), other)


def _parts(e: Explanation) -> set[tuple[str, str]]:
    """What a layer is made of: its settings that are neither sizes nor switches, and whether heads share keys."""
    named = {(key, value) for key, value in e.settings.items() if not re.fullmatch(r"[\d.e+-]+|True|False", value)}
    shared = e.settings.get("n_heads") != e.settings.get("n_kv_heads")
    return named | {("heads share", str(shared))}
