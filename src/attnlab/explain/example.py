"""What a worked example is made of: a variant on the chapter's sentence, or a layer of a trained run on any text."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.base import Attention
from attnlab.attention.evaluating import evaluating
from attnlab.attention.head_wrapper import HeadWrapper
from attnlab.attention.self_attention import SelfAttention
from attnlab.attention.shared import Shared
from attnlab.attention.softmax import SoftmaxAttention
from attnlab.errors import UsageError, nearest
from attnlab.explain.chapter import FOCUS, SEED
from attnlab.explain.flow.graph import flow_of, to_next_word
from attnlab.explain.flow.node import Flow
from attnlab.explain.flow.operations import Operations, recorded
from attnlab.explain.small_layers import Built, stacked
from attnlab.explain.steps import Explanation, Step
from attnlab.explain.trace import dropped, masked_afterwards, paragraphs, slots, trace, vectors
from attnlab.inspection.maps import Labeller, check_prompt
from attnlab.model import GPT


def explained(name: str, built: Built, *, token: str | None) -> Explanation:
    """The worked example of the last of these layers on its sentence; journey is followed where it is in it."""
    token = FOCUS if token is None and FOCUS in built.tokens else token
    layer, shared = built.layers[-1], Shared()
    with torch.no_grad():
        for below in built.layers[:-1]:
            below(built.x, shared)
    with recorded() as recording:
        steps = _steps(layer, built.x, shared)
    operations = Operations(recording.ran)
    flow, both = flow_of(layer, steps, operations), any(step.key.startswith("first.") for step in steps)
    first_way = flow_of(layer, steps, operations, first_way=True) if both else None
    notes = list(built.notes)
    if layer.traits.requires:
        notes.append("the layers below are given the same input, so that there is something to read from them")
    e = _explanation(name, f"attention={name}", layer, steps, flow, list(built.tokens), token, notes)
    return replace(e, first_way=first_way)


def _steps(layer: Attention, x: Tensor, shared: Shared) -> list[Step]:
    """The steps of a layer, among them the chapter's first way to mask and a draw of dropout where there are these."""
    steps = trace(layer, x, shared)
    if isinstance(layer, SelfAttention) and layer.causal:
        at = next(i for i, step in enumerate(steps) if step.key == "masked")
        steps[at:at] = masked_afterwards(layer, x)
    at, last = max(((i, s) for i, s in enumerate(steps) if s.part == "weights"), default=(0, None), key=itemgetter(0))
    parts = layer.parts if isinstance(layer, HeadWrapper) else [layer]
    drop = [part for part in parts if isinstance(part, SoftmaxAttention) and part.dropout]
    if last is not None and last.hidden is not None and drop == parts and not layer.traits.requires:
        steps.insert(at + 1, dropped(drop, x, SEED, last.hidden))
    return steps


class ModelPass(NamedTuple):
    """What a model makes of one text: what each layer of attention is given, what its block gives, and the logits."""

    prompt: str
    ids: list[int]
    tokens: list[str]
    embedded: Float[Tensor, "1 t c"]
    entrances: list[tuple[Float[Tensor, "1 t c"], Shared]]
    blocks: list[Float[Tensor, "1 t c"]]
    logits: Float[Tensor, "t vocab"]


@torch.no_grad()
def pass_through(model: GPT, tokenizer: Labeller, prompt: str, *, key: str = "prompt") -> ModelPass:
    """One pass of a text, in which all is kept. Raises UsageError, under this key, for what the model cannot read."""
    ids, labels = check_prompt(prompt, tokenizer, model.context, key=key)
    entrances: list[tuple[Tensor, Shared]] = []
    blocks: list[Tensor] = []
    hooks = [
        hook
        for block in model.layers
        for hook in (
            block.attention.register_forward_pre_hook(lambda _, given: entrances.append((given[0], given[1].copy()))),
            block.register_forward_hook(lambda _, given, result: blocks.append(result)),
        )
    ]
    try:
        with evaluating(model):
            embedded, logits = model.entrance(torch.tensor([ids])), model(torch.tensor([ids]))[0]
    finally:
        for hook in hooks:
            hook.remove()
    return ModelPass(prompt, ids, labels, embedded, entrances, blocks, logits)


def explained_run(
    name: str, model: GPT, tokenizer: Labeller, prompt: str, *, layer: int | None, token: str | None
) -> Explanation:
    """The worked example of one layer of a trained model, counted from 1, on a text."""
    number = 1 if layer is None else layer
    if number > len(model.layers):
        raise UsageError(f"layer ({number}) must be at most the number of layers of the run ({len(model.layers)})")
    return explained_pass(name, model, tokenizer, pass_through(model, tokenizer, prompt), layer=number, token=token)


def explained_pass(
    name: str, model: GPT, tokenizer: Labeller, passed: ModelPass, *, layer: int, token: str | None
) -> Explanation:
    """The worked example of one layer, counted from 1, on a text that has gone through the model."""
    block, last = model.layers[layer - 1], len(model.layers)
    mixer = block.attention
    with recorded() as recording:
        steps = trace(mixer, *passed.entrances[layer - 1])
    text = "What the model's first block is given: a learned vector per token, and its position where one is added."
    steps.insert(0, vectors("embedded", "inputs", "Embeddings", text, passed.embedded[:, None]))
    text = f"After the blocks below{'' if isinstance(block.norm_attention, nn.Identity) else ' and a norm'}."
    steps[1] = replace(steps[1], title=f"Input of layer {layer}", text=text)
    flow = to_next_word(
        flow_of(mixer, steps, Operations(recording.ran)),
        passed.blocks[layer - 1][0].float().numpy(),
        passed.logits.float().softmax(dim=-1).numpy(),
        tokenizer.labels,
    )
    notes = [f"the text: {passed.prompt}"]
    return _explanation(name, f"{name}, layer {layer} of {last}", mixer, steps, flow, passed.tokens, token, notes)


def _explanation(
    name: str,
    heading: str,
    layer: Attention,
    steps: list[Step],
    flow: Flow,
    tokens: list[str],
    token: str | None,
    notes: list[str],
) -> Explanation:
    about, linear = paragraphs(layer), any(step.part == "weights" for step in steps)
    if not linear:
        notes.append(
            "there is no attention map: the output is not a weighted sum of values, so what is shown is what the "
            "layer remembers and what it gives out"
        )
    focus, settings = followed(tokens, token), dict(settings_of(layer))
    if any(step.part == "dropout" and not step.values[:, focus].any() for step in steps):
        notes.append(
            f"in the draw of dropout that is shown all weights of {tokens[focus]} are dropped, so that in this step of "
            "training it would read nothing"
        )
    chosen = list(slots(layer))
    return Explanation(
        name, heading, about, chosen, tokens, focus, steps, flow, linear, notes, settings, matrices(layer)
    )


def matrices(layer: Attention) -> dict[str, np.ndarray]:
    """What a layer has learned, by name: matrices (in, out) as the chapter writes them, which `nn.Linear` keeps turned.

    Those of heads side by side are joined, as one layer of several heads has them.
    """
    joined = {name: torch.cat(parts).detach().to("cpu", torch.float32) for name, parts in stacked(layer).items()}
    return {name: (numbers.mT if numbers.ndim == 2 else numbers).numpy().copy() for name, numbers in joined.items()}


def settings_of(layer: Attention) -> Iterator[tuple[str, str]]:
    """The class of a layer and of each of its parts, and their plain settings, by dotted name."""
    for path, module in layer.named_modules():
        if not type(module).__module__.startswith("torch."):
            yield path or "class", type(module).__name__
            for name, value in vars(module).items():
                if type(value) in (bool, int, float, str) and name not in ("training", "layer", "n_layers"):
                    text = f"{value:.4g}" if isinstance(value, float) else str(value)
                    yield f"{path}.{name}".lstrip("."), text


def followed(tokens: Sequence[str], token: str | None) -> int:
    """The index of the token to follow: named by its text or its number from 1; the last one if none is named."""
    if token is None:
        return len(tokens) - 1
    texts = [text.strip() for text in tokens]
    if token.strip() in texts:
        return texts.index(token.strip())
    if token.isdigit() and 0 < int(token) <= len(tokens):
        return int(token) - 1
    raise UsageError(
        f"token ({token}) is not among the tokens{nearest(token, texts)} (they are {', '.join(texts[:12])}"
        f"{', ...' if len(texts) > 12 else ''}; a number from 1 to {len(tokens)} names one, too)"
    )
