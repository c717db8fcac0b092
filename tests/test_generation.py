"""Writing text: what is drawn, from what, and one token at a time."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from attnlab.attention.base import AttentionFactory
from attnlab.attention.embedding import Embedding, LearnedEmbedding, NoEmbedding
from attnlab.attention.feature_map import EluPlusOne
from attnlab.attention.mask import Window
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.output_norm import SumNorm
from attnlab.attention.recurrent import RecurrentAttention
from attnlab.attention.rotary import RoPE
from attnlab.errors import UsageError
from attnlab.generation import choose, generate, generate_batch
from attnlab.model import GPT
from attnlab.options.model_config import ModelConfig

VOCAB, CONTEXT = 17, 8
multi_head = partial(MultiHeadAttention, n_heads=2, position=RoPE)
ATTENTIONS: dict[str, AttentionFactory] = {
    "multi_head": multi_head,
    "window": partial(multi_head, mask=partial(Window, window=3)),
    "linear": partial(RecurrentAttention, n_heads=2, feature_map=EluPlusOne, output_norm=SumNorm),
}


def gpt(attention: AttentionFactory = multi_head, embed: Callable[..., Embedding] = NoEmbedding, **sizes: Any) -> GPT:
    """A small model whose numbers are large enough for clear favourites, and for texts that do not repeat."""
    config = ModelConfig(**{"context": CONTEXT, "n_layers": 2, "d_model": 8, "tie": False, **sizes})
    model = GPT(config, vocab_size=VOCAB, attention=attention, embed=embed)
    draw = torch.Generator().manual_seed(14)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=draw))
    return model.eval()


def prompt(n: int = 3) -> Tensor:
    return torch.arange(n) % VOCAB


def reference(model: GPT, text: list[int], tokens: int) -> list[int]:
    """Greedy writing by whole forward passes: when the context is full, its last half is read anew."""
    text, seen = list(text), list(text)
    for _ in range(tokens):
        if len(seen) > model.context:
            seen = text[-max(1, model.context // 2) :]
        with torch.no_grad():
            token = int(model(torch.tensor([seen]))[0, -1].argmax())
        text, seen = [*text, token], [*seen, token]
    return text[-tokens:]


# Which token


def drawn(logits: Tensor, times: int = 500, **options: Any) -> list[int]:
    generator = torch.Generator().manual_seed(0)
    settings = {"temperature": 1.0, "top_k": None, "top_p": None, **options}
    return [choose(logits, generator=generator, **settings) for _ in range(times)]


HALVES = torch.tensor([0.15, 0.5, 0.05, 0.3]).log()


def test_draws_by_probability() -> None:
    """Tokens are drawn as often as they are likely."""
    counts = torch.bincount(torch.tensor(drawn(HALVES, 4000)), minlength=4) / 4000
    torch.testing.assert_close(counts, HALVES.exp(), rtol=0, atol=0.032)  # four deviations of sqrt(0.25 / 4000)


def test_temperature_sharpens_and_flattens() -> None:
    hot, cold = (torch.tensor(drawn(HALVES, 4000, temperature=t)) for t in (2.0, 0.5))
    for found, power in ((hot, 0.5), (cold, 2.0)):
        expected = HALVES.exp() ** power / (HALVES.exp() ** power).sum()
        torch.testing.assert_close(torch.bincount(found, minlength=4) / 4000, expected, rtol=0, atol=0.032)


def test_temperature_0() -> None:
    """Temperature 0 takes the likeliest and the first of equals."""
    assert set(drawn(HALVES, temperature=0)) == {1}
    assert set(drawn(torch.tensor([1.0, 7.0, 3.0, 7.0]), temperature=0)) == {1}


@pytest.mark.parametrize(
    ("top_k", "left"), [(1, {1}), (2, {1, 3}), (3, {0, 1, 3}), (4, {0, 1, 2, 3}), (9, {0, 1, 2, 3})]
)
def test_top_k_leaves_the_k_likeliest(top_k: int, left: set[int]) -> None:
    assert set(drawn(HALVES, top_k=top_k)) == left


@pytest.mark.parametrize(
    ("top_p", "left"),
    [
        (1e-9, {1}),
        (0.4, {1}),
        (0.51, {1, 3}),
        (0.79, {1, 3}),
        (0.9, {0, 1, 3}),
        (0.96, {0, 1, 2, 3}),
        (1.0, {0, 1, 2, 3}),
    ],
)
def test_top_p(top_p: float, left: set[int]) -> None:
    """Top_p leaves the likeliest that together reach p."""
    assert set(drawn(HALVES, top_p=top_p)) == left


def test_top_p_is_reached_by_exactly_p() -> None:
    assert len(set(drawn(torch.zeros(2), top_p=0.5))) == 1
    assert len(set(drawn(torch.zeros(4), top_p=0.75))) == 3


def test_top_p_counts_after_top_k() -> None:
    # Of the two that top_k leaves the first holds 0.625, so 0.6 needs no second; without top_k it would.
    assert set(drawn(HALVES, top_k=2, top_p=0.6)) == {1}
    assert set(drawn(HALVES, top_p=0.6)) == {1, 3}


def test_half_precision_logits() -> None:
    """Logits in half precision are drawn from in float32."""
    assert drawn(HALVES.bfloat16(), top_p=0.9) == drawn(HALVES.bfloat16().float(), top_p=0.9)


# Streams of tokens


@pytest.mark.parametrize("attention", ATTENTIONS.values(), ids=ATTENTIONS)
def test_greedy_is_argmax(attention: AttentionFactory) -> None:
    """Greedy writing takes the argmax of forward."""
    model = gpt(attention)
    found = list(generate(model, prompt(), tokens=CONTEXT - 3, temperature=0))
    assert found == reference(model, prompt().tolist(), CONTEXT - 3)
    assert len(set(found)) > 3  # not a text that repeats one token


@pytest.mark.parametrize("attention", ATTENTIONS.values(), ids=ATTENTIONS)
@pytest.mark.parametrize("n", [1, 3, CONTEXT])
def test_past_the_context(attention: AttentionFactory, n: int) -> None:
    """Writing goes on past the context from its last half."""
    model = gpt(attention)
    found = list(generate(model, prompt(n), tokens=4 * CONTEXT, temperature=0))
    assert found == reference(model, prompt(n).tolist(), 4 * CONTEXT)


@pytest.mark.parametrize("context", [1, 2, 3, 8])
def test_no_position_past_the_context_is_ever_used(context: int) -> None:
    model = gpt(context=context, embed=LearnedEmbedding)  # which refuses one
    found = list(generate(model, prompt(1), tokens=25, seed=3))
    assert len(found) == 25 and all(0 <= token < VOCAB for token in found)


def test_seeds() -> None:
    """A seed repeats its text and another writes another."""
    model = gpt()
    texts = [list(generate(model, prompt(), tokens=30, temperature=3.0, seed=seed)) for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("temperature", [1e-40, 5e-324, 1e-30])
def test_temperature_next_to_0(temperature: float) -> None:
    """The limit, where the quotient is too large for float32; with top_p as well."""
    assert set(drawn(torch.tensor([1.0, 7.0, -3.0, 6.9]), temperature=temperature, top_p=0.9)) == {1}


def test_top_k_1_is_greedy_at_any_temperature() -> None:
    model = gpt()
    greedy = list(generate(model, prompt(), tokens=30, temperature=0))
    assert list(generate(model, prompt(), tokens=30, temperature=5.0, top_k=1)) == greedy
    assert list(generate(model, prompt(), tokens=30, temperature=5.0)) != greedy


def test_writing_has_a_stream_of_its_own() -> None:
    model, before = gpt(), torch.get_rng_state()
    list(generate(model, prompt(), tokens=5))
    assert torch.equal(torch.get_rng_state(), before)
    writer = generate(model, prompt(), tokens=30, temperature=3.0)
    first = [next(writer) for _ in range(10)]
    torch.rand(3)
    assert first + list(writer) == list(generate(model, prompt(), tokens=30, temperature=3.0))


def test_tokens_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens come one by one as soon as each is known."""
    model, fed = gpt(), []
    step = model.step
    monkeypatch.setattr(model, "step", lambda ids, state: (fed.append(ids.size(1)), step(ids, state))[1])
    writer = generate(model, prompt(), tokens=4)
    assert isinstance(writer, Iterator) and fed == []
    for i in range(4):
        next(writer)
        assert fed == [3, 1, 1, 1][: i + 1]  # the prompt at once, then each new token alone
    with pytest.raises(StopIteration):
        next(writer)


def test_model_mode_between_tokens() -> None:
    """Between two tokens the model is as it was."""
    model = gpt(partial(multi_head, dropout=0.5), dropout=0.5).train()
    writer = generate(model, prompt(), tokens=6, temperature=0)
    found = [next(writer)]
    assert all(m.training for m in model.modules())
    assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()
    model(torch.tensor([[1, 2]])).sum().backward()  # training may go on in between
    found += writer
    assert all(m.training for m in model.modules())
    assert found == list(generate(model.eval(), prompt(), tokens=6, temperature=0))  # nothing was dropped


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": 0}, "tokens (0) must be at least 1"),
        ({"tokens": -2}, "tokens (-2) must be at least 1"),
        ({"temperature": -0.1}, "temperature (-0.1) must be 0 (the likeliest token) or more"),
        ({"temperature": float("nan")}, "temperature (nan) must be 0 (the likeliest token) or more"),
        ({"top_k": 0}, "top_k (0) must be at least 1"),
        ({"top_p": 0.0}, "top_p (0.0) must be above 0, at most 1"),
        ({"top_p": 1.1}, "top_p (1.1) must be above 0, at most 1"),
        ({"prompt": torch.tensor([], dtype=torch.long)}, "prompt (empty) must hold at least one token"),
        ({"prompt": torch.arange(9)}, "prompt (9 tokens) is longer than the model's context (8 tokens)"),
    ],
)
def test_refused_before_first_token(options: dict[str, Any], message: str) -> None:
    """What cannot work is refused before the first token."""
    with pytest.raises(UsageError) as error:
        generate(gpt(), **{"prompt": prompt(), "tokens": 3, **options})
    assert str(error.value) == message


@pytest.mark.parametrize("name", ATTENTIONS)
def test_batch(name: str) -> None:
    """Prompts that go on side by side become what each becomes alone, past the end of the context, too."""
    model, tokens = gpt(ATTENTIONS[name]), 2 * CONTEXT
    prompts = torch.stack([prompt(), prompt() + 4, prompt()])
    rows = list(zip(*generate_batch(model, prompts, tokens=tokens, temperature=0.7, seed=3), strict=True))
    for i, row in enumerate(rows):
        assert list(row) == list(generate(model, prompts[i], tokens=tokens, temperature=0.7, seed=3 + i))
    assert rows[0] != rows[2]  # the same prompt, another seed
