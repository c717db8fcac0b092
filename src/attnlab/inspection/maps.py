"""Taking maps: at which steps, of which sentences, and out of the model into plain numpy arrays."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from attnlab.errors import UsageError
from attnlab.inspection.records import LayerMap

MAX_STEPS = 60  # map steps of a run: what TensorBoard can still show, and a bound on the size of the event file
MAX_PROBE_TOKENS = 256  # a map holds tokens^2 weights for each head, layer and step


class Probe(NamedTuple):
    """A sentence that maps are taken of, as the model and the pictures need it."""

    name: str
    text: str
    ids: list[int]
    labels: list[str]
    note: str  # what was done to the sentence, or ""


@runtime_checkable
class Labeller(Protocol):
    """What is needed of a tokenizer."""

    def encode_prompt(self, text: str) -> list[int]: ...

    def labels(self, ids: Iterable[int]) -> list[str]: ...


@runtime_checkable
class GivesMaps(Protocol):
    """A network that gives the map of every layer: a GPT, or its copy in an exported folder."""

    def attention_maps(self, ids: Tensor) -> Sequence[Any]: ...

    def parameters(self) -> Iterator[Tensor]: ...


def map_steps(max_steps: int, n: int) -> list[int]:
    """The steps at which maps are taken: 0, then ever further apart, the last is `max_steps`.

    There are `n` of them, or all steps if there are fewer; from 1 on each is about as many times the one before.
    """
    if max_steps < 1:
        raise UsageError(f"trainer.max_steps ({max_steps}) must be at least 1")
    if not 2 <= n <= MAX_STEPS:
        raise UsageError(f"maps.steps ({n}) must be at least 2, at most {MAX_STEPS}")
    if max_steps < n:
        return list(range(max_steps + 1))
    steps = [0]
    for i in range(n - 1):
        even = max_steps ** (i / (n - 2)) if n > 2 else max_steps
        steps.append(max(steps[-1] + 1, round(even)))
    return steps


def check_probe(
    name: str, text: str, tokenizer: Labeller, context: int, *, max_tokens: int = MAX_PROBE_TOKENS
) -> Probe:
    """Turn a sentence into a probe, or refuse it under its key, maps.<name>.

    The user's own sentence (`prompt`) is taken as it is or not at all. The default one (`probe`) is cut where the
    context ends, and the probe's note says so.
    """
    key, note = f"maps.{name}", ""
    try:
        ids = tokenizer.encode_prompt(text)
    except UsageError as error:
        raise UsageError(f"{key}: {error}") from error
    if not ids:
        raise UsageError(f"{key} ({text!r}) must hold at least one token of this tokenizer")
    most = min(context, max_tokens)
    if len(ids) > most and name != "probe":
        limit = f"model.context ({context})" if context <= max_tokens else f"the most that maps are drawn of ({most})"
        raise UsageError(f"{key} ({len(ids)} tokens) is longer than {limit}; shorten it")
    if len(ids) > most:
        note = f"its first {most} of {len(ids)} tokens"
    ids = list(ids[:most])
    return Probe(name, text, ids, tokenizer.labels(ids), note)


def check_prompt(
    text: str, tokenizer: Labeller, context: int, *, key: str = "prompt", max_tokens: int = MAX_PROBE_TOKENS
) -> tuple[list[int], list[str]]:
    """The tokens of a text as numbers and as labels, or a refusal where the model cannot read it."""
    try:
        ids = list(tokenizer.encode_prompt(text))
    except UsageError as error:
        raise UsageError(f"{key}: {error}") from error
    most = min(context, max_tokens)
    if not 1 <= len(ids) <= most:
        limit = f"the model's context ({context})" if context <= max_tokens else f"the most that is drawn ({most})"
        raise UsageError(f"{key} ({len(ids)} tokens) must hold at least one token and no more than {limit}")
    return ids, list(tokenizer.labels(ids))


def collect(model: GivesMaps, ids: Int[Tensor, " t"] | Sequence[int]) -> list[LayerMap]:
    """The maps of all layers for one sentence; neither the model nor any random stream is changed."""
    device = next(model.parameters()).device
    batch = torch.as_tensor(ids, dtype=torch.long, device=device)[None]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        maps = model.attention_maps(batch)
    return [
        LayerMap(i, m.kind, None if m.kind == "none" else _plain(m.weights), _plain(m.value_norm))
        for i, m in enumerate(maps)
    ]


def _plain(tensor: Tensor | None) -> np.ndarray | None:
    """The only entry of a batch as a float32 array of its own."""
    return None if tensor is None else tensor[0].detach().to("cpu", torch.float32).contiguous().numpy()
