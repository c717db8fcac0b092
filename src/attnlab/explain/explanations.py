"""Worked examples of variants: on the chapter's sentence, with the chapter's numbers where it has them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from attnlab.build import Factory, attention_factory
from attnlab.config.keys import sentence
from attnlab.config.messages import ComposedVariant, compose_for_chapter
from attnlab.errors import UsageError
from attnlab.explain import chapter
from attnlab.explain.compare import Pairing
from attnlab.explain.example import explained
from attnlab.explain.small_layers import Built, build
from attnlab.explain.steps import Explanation


def all_examples() -> list[Explanation]:
    """The chapter from its first example to several heads: each of its variants, in its order."""
    return [
        replace(example, heading=f"{i}. {one.heading}", about=[one.change, one.same, *example.about])
        for i, (name, one) in enumerate(chapter.BOOK_EXAMPLES.items(), 1)
        for example in [variant(name)]
    ]


def variant(name: str, **settings: Any) -> Explanation:
    """The worked example of a variant on the chapter's sentence; settings as of the command (see `explanations`)."""
    return _composed([name], **settings)[0]


def compared(name: str, against: str, **settings: Any) -> Pairing:
    """A variant and another one in the same sizes, with the same numbers in every matrix that both have."""
    one, other = _composed([name, against], **settings)
    return Pairing(one, other)


def _composed(
    names: Sequence[str],
    *,
    config_dir: Path | str | None = None,
    allow_targets: Sequence[str] = (),
    overrides: Sequence[str] = (),
    **settings: Any,
) -> list[Explanation]:
    variants = [compose_for_chapter(name, config_dir, allow_targets, overrides) for name in names]
    return explanations(variants, overrides=overrides, **settings)


def explanations(
    variants: Sequence[ComposedVariant],
    *,
    token: str | None = None,
    layer: int | None = None,
    seed: int | None = None,
    init: str | None = None,
    overrides: Sequence[str] = (),
    prompt: str | None = None,
) -> list[Explanation]:
    """The worked examples of variants, with the same numbers in every matrix that all of them have.

    `token` is the one to follow, `seed` and `init` draw the weights, and `overrides` are what was typed: where nothing
    was, the chapter's own numbers are taken. `prompt` is read in place of the chapter's sentence, word by word.
    """
    layers = built(variants, layer=layer, seed=seed, init=init, overrides=overrides, prompt=prompt)
    return explained_each(variants, layers, token)


def explained_each(
    variants: Sequence[ComposedVariant], layers: Sequence[Built], token: str | None
) -> list[Explanation]:
    """The worked examples of variants that are built, with what their YAMLs say of them."""
    examples = [explained(one.name, each, token=token) for one, each in zip(variants, layers, strict=True)]
    texts = [sentence("attention", each.name, next(iter(each.folders), None)) for each in variants]
    return [
        replace(each, about=[*filter(None, [text]), *each.about]) for each, text in zip(examples, texts, strict=True)
    ]


def built(
    variants: Sequence[ComposedVariant],
    *,
    layer: int | None = None,
    seed: int | None = None,
    init: str | None = None,
    overrides: Sequence[str] = (),
    prompt: str | None = None,
) -> list[Built]:
    """The layers of variants that `explanations` shows."""
    names = [each.name for each in variants]
    factories = [attention_factory(each.config) for each in variants]
    if not all(isinstance(factory, Factory) for factory in factories):
        raise UsageError(f"attention ({names[0]}) must say _partial_: true")
    typed = frozenset(word.partition("=")[0].lstrip("+") for word in overrides)
    shown = [chapter.BOOK_EXAMPLES[name] for name in names if name in chapter.BOOK_EXAMPLES]
    return build(
        factories,  # type: ignore[arg-type]
        n_layers=min(each.config.model.n_layers for each in variants),
        layer=layer,
        examples=shown if len(shown) == len(names) else [],
        seed=seed,
        init=init,
        typed=typed,
        tokens=chapter.TOKENS if prompt is None else chapter.words_of(prompt),
    )
