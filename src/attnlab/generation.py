"""Writing text with a trained model, token by token, through the decode state of its attention."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import TypedDict, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attnlab.attention.evaluating import evaluating
from attnlab.errors import Diverged, UsageError
from attnlab.model import GPT


def choose(
    logits: Float[Tensor, " vocab"],
    *,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: torch.Generator,
) -> int:
    """Draw the next token: temperature 0, or one next to it, takes the likeliest.

    top_k and top_p (arXiv 1904.09751) cut the tail first.
    """
    logits = logits.float().cpu()
    if not logits.isfinite().all():
        raise Diverged("the model's logits are not finite: its weights have diverged (try a smaller optimizer.lr)")
    if temperature == 0 or not (logits / temperature).isfinite().all():  # so small that nothing else could be drawn
        return int(logits.argmax())
    logits = logits / temperature
    if top_k is not None and top_k < logits.numel():
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], -torch.inf)
    probabilities = logits.softmax(dim=-1)
    if top_p is not None and top_p < 1:
        ranked, order = probabilities.sort(descending=True)
        # A token stays while those before it hold less than top_p; the first always stays.
        beyond = ranked.cumsum(dim=-1) - ranked >= top_p
        probabilities = probabilities.index_fill(0, order[beyond], 0.0)
    return int(torch.multinomial(probabilities, 1, generator=generator))


class Drawing(TypedDict, total=False):
    """How tokens are drawn: see `choose`; `seed` is that of the random stream."""

    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int


def generate(model: GPT, prompt: Int[Tensor, " n"], *, tokens: int, **drawing: Unpack[Drawing]) -> Iterator[int]:
    """Yield `tokens` new token ids after `prompt`, one by one, with a random stream of its own.

    When the context is full, the last half of it becomes a new prompt, so that a model never sees a position it was
    not trained on.
    """
    return (row[0] for row in generate_batch(model, prompt[None], tokens=tokens, **drawing))


def generate_batch(
    model: GPT,
    prompts: Int[Tensor, "b n"],
    *,
    tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
) -> Iterator[list[int]]:
    """Yield, `tokens` times, one new token id for each of several prompts of one length, which go on side by side.

    The weights are read once a step for all of them. Row i is the text that `generate` writes with seed + i.
    """
    checks = (
        ("tokens", tokens, tokens >= 1, "at least 1"),
        ("temperature", temperature, temperature >= 0, "0 (the likeliest token) or more"),
        ("top_k", top_k, top_k is None or top_k >= 1, "at least 1"),
        ("top_p", top_p, top_p is None or 0 < top_p <= 1, "above 0, at most 1"),
    )
    for name, value, fine, allowed in checks:
        if not fine:
            raise UsageError(f"{name} ({value}) must be {allowed}")
    if prompts.numel() < 1:
        raise UsageError("prompt (empty) must hold at least one token")
    if prompts.size(1) > model.context:
        raise UsageError(
            f"prompt ({prompts.size(1)} tokens) is longer than the model's context ({model.context} tokens)"
        )
    return _stream(model, prompts, tokens, temperature, top_k, top_p, seed)


def _stream(
    model: GPT, prompts: Tensor, tokens: int, temperature: float, top_k: int | None, top_p: float | None, seed: int
) -> Iterator[list[int]]:
    generators = [torch.Generator().manual_seed(seed + row) for row in range(len(prompts))]
    device, modules = next(model.parameters()).device, list(model.modules())  # walking them costs time
    texts = prompts.tolist()
    state, new = model.init_state(len(texts), model.context), texts
    for _ in range(tokens):
        if state.length + len(new[0]) > model.context:
            new = [text[-max(1, model.context // 2) :] for text in texts]
            state = model.init_state(len(texts), model.context)
        mode = evaluating(model) if any(module.training for module in modules) else nullcontext()
        with torch.inference_mode(), mode:
            logits, state = model.step(torch.tensor(new, device=device), state)
        new = [
            [choose(row, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)]
            for row, generator in zip(logits[:, -1].cpu(), generators, strict=True)
        ]
        for text, token in zip(texts, new, strict=True):
            text += token
        yield [token for (token,) in new]
