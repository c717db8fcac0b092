"""Writing text with a trained model, token by token, through the decode state of its attention."""

from collections.abc import Iterator

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


def generate(
    model: GPT,
    prompt: Int[Tensor, " n"],
    *,
    tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
) -> Iterator[int]:
    """Yield `tokens` new token ids after `prompt`, one by one, with a random stream of its own.

    When the context is full, the last half of it becomes a new prompt, so that a model never sees a position it was
    not trained on.
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
    if prompt.numel() < 1:
        raise UsageError("prompt (empty) must hold at least one token")
    if prompt.numel() > model.context:
        raise UsageError(
            f"prompt ({prompt.numel()} tokens) is longer than the model's context ({model.context} tokens)"
        )
    return _stream(model, prompt, tokens, temperature, top_k, top_p, seed)


def _stream(
    model: GPT, prompt: Tensor, tokens: int, temperature: float, top_k: int | None, top_p: float | None, seed: int
) -> Iterator[int]:
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    text = prompt.tolist()
    state, new = model.init_state(1, model.context), text
    for _ in range(tokens):
        if state.length + len(new) > model.context:
            new = text[-max(1, model.context // 2) :]
            state = model.init_state(1, model.context)
        with torch.inference_mode(), evaluating(model):
            logits, state = model.step(torch.tensor([new], device=device), state)
        token = choose(logits[0, -1], temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
        text.append(token)
        new = [token]
        yield token
