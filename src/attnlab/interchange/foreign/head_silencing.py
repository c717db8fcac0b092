"""What each softmax head of a foreign decoder is good for: the loss of a text without it."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from attnlab.errors import UsageError
from attnlab.inspection.head_ablation import Effect
from attnlab.inspection.prompt_maps import PromptMaps
from attnlab.interchange.foreign.loading import ForeignModel
from attnlab.interchange.foreign.mixing import Change, watch
from attnlab.interchange.foreign.parts import call, inspect
from attnlab.store.files import read_file

MOST_SHOWN = 48  # tokens of the pictures
MOST_ROW = 512  # tokens that are scored at once, where the model does not end before


def read_rows(model: ForeignModel, text: Path, tokens: int) -> list[list[int]]:
    """The text of a file as rows of ids, each from the last token of the one before, so that about `tokens` are scored.

    Raises UsageError for a file that holds no text to score.
    """
    try:
        content = read_file(text).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"text ({text}) cannot be read: {getattr(error, 'strerror', None) or error}") from error
    with model.refusing():
        ids: list[int] = model.tokenizer(content)["input_ids"][: tokens + 1]
    if len(ids) < 2:
        raise UsageError(f"text ({text}) must hold at least two tokens, so that one can be scored; it holds {len(ids)}")
    length = min(model.context or MOST_ROW, MOST_ROW)
    return [ids[i : i + length + 1] for i in range(0, len(ids) - 1, length)]


def decoder_maps(model: ForeignModel, ids: Sequence[int]) -> PromptMaps:
    """The maps of the softmax layers, for pictures. Refuses a model that is no decoder of text, or has none of them."""
    name, shown = f"hf ({model.name})", list(ids)[:MOST_SHOWN]
    if model.model.config.is_encoder_decoder:
        raise UsageError(f"{name} has an encoder beside its decoder; heads are silenced in decoders alone")
    with model.refusing():
        inputs = {"input_ids": torch.tensor([shown])}
        parts = inspect(model.model, inputs, labels=model.labels(shown), name=model.name, step=model.step).parts
    if not all(maps.causal for maps in parts.values()):
        raise UsageError(f"{name} reads later tokens, so it predicts none; heads are silenced in decoders alone")
    for maps in parts.values():
        if any(layer.kind != "signed" for layer in maps.layers):
            return maps
    raise UsageError(f"{name} has no softmax attention whose heads could be silenced")


def silence(model: ForeignModel, rows: Sequence[Sequence[int]]) -> tuple[float, Iterator[Effect]]:
    """The loss of the whole model in nats per token, and the effect of silencing each head, as they come.

    A head is silenced where it meets its values, so that it adds nothing to the output projection (or its own average).
    Heads of layers that hold several attentions are counted on. Raises UsageError for a model without a loss.
    """
    totals: dict[int, Float[Tensor, "h d"]] = {}

    def average(number: int, o: Float[Tensor, "h t d"]) -> None:
        here = o.double().sum(dim=1)
        totals[number] = totals[number] + here if number in totals else here

    whole, layers = _loss(model, rows, average)
    positions = sum(len(row) - 1 for row in rows)

    def effects() -> Iterator[Effect]:
        heads_before: dict[int, int] = {}
        for number, total in totals.items():
            layer = layers[number]
            first = heads_before.get(layer, 0)
            heads_before[layer] = first + len(total)
            for head, mean in enumerate(total / positions):
                changes = (_replaced(number, head, value) for value in (torch.zeros_like(mean), mean))
                losses = [_loss(model, rows, change)[0] - whole for change in changes]
                yield Effect(layer, first + head, *losses)

    return whole, effects()


def _replaced(number: int, head: int, value: Float[Tensor, " d"]) -> Change:
    def change(at: int, o: Float[Tensor, "h t d"]) -> None:
        if at == number:
            o[head] = value.to(o.dtype)

    return change


def _loss(model: ForeignModel, rows: Sequence[Sequence[int]], change: Change) -> tuple[float, list[int]]:
    """The mean loss of the rows, and the layer of each softmax mixing by its number."""
    nats, layers = 0.0, list[int]()
    for row in rows:
        ids = torch.tensor([row])
        with model.refusing():
            compute = partial(call, model.model, {"input_ids": ids[:, :-1]})
            watching, out = watch(model.model, compute, change=change)
        logits = getattr(out, "logits", None)
        if logits is None or logits.shape[:2] != (1, len(row) - 1):
            raise UsageError(f"hf ({model.name}) does not predict the next token, so there is no loss to compare")
        nats += float(F.cross_entropy(logits[0].float(), ids[0, 1:], reduction="sum"))
        layers = [owner.layer for owner in watching.owners]
    return nats / sum(len(row) - 1 for row in rows), layers
