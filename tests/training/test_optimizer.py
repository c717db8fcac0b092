"""Learning-rate schedules by hand, weight decay by group, and two optimizers that are one."""

import io
import math
from collections.abc import Iterable
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.cases import one_of_each
from tests.training.fits import ADAMW, CONTEXT, VOCAB, adamw, tiny_model
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from attnlab.build import build_model, instantiate
from attnlab.config.compose import compose_config, config_dir
from attnlab.model import GPT
from attnlab.training.optimizer import Decay, Muon, MuonWithAdamW, Recipe, matrices_of

VARIANTS = sorted(file.stem for file in (config_dir() / "attention").glob("*.yaml"))
MUON = Muon(
    lr=0.02,
    weight_decay=0.1,
    warmup_fraction=0.3,
    decay="linear",
    final_lr_fraction=0.0,
    grad_clip=None,
    momentum=0.9,
    adamw_lr=0.003,
    betas=(0.9, 0.99),
)


def schedule(max_steps: int, **changes: Any) -> list[float]:
    """The factor of every update, and the one after the last."""
    recipe = adamw(**changes)
    return [recipe.factor(step, max_steps) for step in range(max_steps + 1)]


# The schedule


def test_linear_schedule() -> None:
    """The rate rises in equal parts and falls linearly to its final fraction."""
    factors = schedule(10, warmup_fraction=0.3, decay="linear", final_lr_fraction=0.1)
    rising, falling = [1 / 4, 2 / 4, 3 / 4], [0.1 + 0.9 * left / 7 for left in (7, 6, 5, 4, 3, 2, 1, 0)]
    assert factors == pytest.approx(rising + falling, rel=1e-15)
    assert factors[3] == 1.0 and factors[10] == 0.1


def test_the_rate_falls_along_half_a_cosine() -> None:
    factors = schedule(8, warmup_fraction=0.0, decay="cosine", final_lr_fraction=0.2)
    # cos(0), cos(pi/8), ...: the middle is half way, and what is above it mirrors what is below.
    assert factors[0] == 1.0 and factors[8] == pytest.approx(0.2, rel=1e-15)
    assert factors[4] == pytest.approx(0.6, rel=1e-15)
    assert factors[2] == pytest.approx(0.2 + 0.8 * (2 + math.sqrt(2)) / 4, rel=1e-15)
    assert [a + b for a, b in zip(factors, reversed(factors), strict=True)] == pytest.approx([1.2] * 9, rel=1e-15)


def test_constant_schedule() -> None:
    """A constant rate stays at its peak after the warm up."""
    assert schedule(5, warmup_fraction=0.4, decay="constant", final_lr_fraction=0.1) == [1 / 3, 2 / 3, 1, 1, 1, 1]


@pytest.mark.parametrize("decay", get_args(Decay))
@pytest.mark.parametrize(("warmup", "first"), [(0.0, 1.0), (0.4, 1.0), (0.9, 0.5)])
def test_a_run_of_one_step_has_a_rate(decay: str, warmup: float, first: float) -> None:
    assert schedule(1, decay=decay, warmup_fraction=warmup, final_lr_fraction=0.0)[0] == first


@settings(deadline=None, derandomize=True)
@given(
    max_steps=st.integers(1, 500),
    warmup=st.floats(0, 1, exclude_max=True),
    final=st.floats(0, 1),
    decay=st.sampled_from(get_args(Decay)),
)
def test_rate_within_bounds(max_steps: int, warmup: float, final: float, decay: str) -> None:
    """No update is made at a rate of 0 or above the peak."""
    *updates, after = schedule(max_steps, warmup_fraction=warmup, final_lr_fraction=final, decay=decay)
    assert all(0 < factor <= 1 for factor in updates)
    top = updates.index(max(updates))
    assert updates[: top + 1] == sorted(updates[: top + 1])
    assert updates[top:] == sorted(updates[top:], reverse=True)
    if decay != "constant" and round(warmup * max_steps) < max_steps:
        assert after == pytest.approx(final, abs=1e-15), "the fraction that the last update has all but reached"
        assert updates[-1] >= after


# Weight decay


def groups_by_name(model: GPT, optimizer: torch.optim.Optimizer) -> list[set[str]]:
    names = {id(p): name for name, p in model.named_parameters()}
    return [{names[id(p)] for p in group["params"]} for group in optimizer.param_groups]


@pytest.mark.parametrize("tie", [True, False])
def test_weight_decay(tie: bool) -> None:
    """Weight decay acts on matrices and embeddings only."""
    model = tiny_model(bias=True, tie=tie)
    optimizer = ADAMW.optimizer(model)
    decayed, kept = groups_by_name(model, optimizer)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    everything = dict(model.named_parameters())
    assert decayed == {name for name, p in everything.items() if p.ndim == 2}
    assert kept == {name for name, p in everything.items() if p.ndim == 1}
    assert {"embedding.weight", "blocks.0.mlp.up.weight"} < decayed
    assert {"norm.weight", "blocks.1.mlp.down.bias"} < kept
    assert ("head.weight" in decayed) is not tie, "one tensor stands in one group, once"


def test_what_is_frozen_belongs_to_no_group() -> None:
    model = tiny_model()
    model.embedding.weight.requires_grad_(False)
    frozen_matrix = model.layers[0].mlp.up.weight.requires_grad_(False)
    for recipe in (ADAMW, MUON):
        names = set().union(*groups_by_name(model, recipe.optimizer(model)))
        assert names == {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(matrix is not frozen_matrix for matrix in matrices_of(model))


def test_first_step_of_adamw() -> None:
    """The first step of AdamW is decay and a sign."""
    model = tiny_model().double()
    optimizer = ADAMW.optimizer(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    backward(model, step=0)
    optimizer.step()
    for name, p in model.named_parameters():
        assert p.grad is not None
        kept = 1 - ADAMW.lr * (ADAMW.weight_decay if p.ndim == 2 else 0.0)
        # After one step both bias-corrected moments are those of the gradient itself: g / (|g| + eps).
        expected = kept * before[name] - ADAMW.lr * p.grad / (p.grad.abs() + 1e-8)
        torch.testing.assert_close(p.detach(), expected, rtol=0, atol=1e-14)


# Muon


def backward(model: GPT, *, step: int) -> None:
    """Gradients of a batch that follows from its number."""
    ids = torch.randint(VOCAB, (2, CONTEXT), generator=torch.Generator().manual_seed(step))
    model.zero_grad()
    F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()


def train(model: GPT, optimizer: Any, scheduler: Any, steps: Iterable[int]) -> None:
    for step in steps:
        backward(model, step=step)
        optimizer.step()
        scheduler.step()


def scheduled(model: GPT, max_steps: int = 9, recipe: Recipe = MUON) -> tuple[Any, LambdaLR]:
    optimizer = recipe.optimizer(model)
    return optimizer, LambdaLR(optimizer, lambda step: recipe.factor(step, max_steps))


def parameters(model: GPT) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def all_equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(map(torch.equal, a, b))


def test_muon_groups() -> None:
    """Muon gets the matrices inside the blocks and AdamW the rest."""
    model = tiny_model(bias=True, tie=False)
    muon, decayed, kept = groups_by_name(model, MUON.optimizer(model))
    linear = {f"{name}.weight" for name, m in model.blocks.named_modules(prefix="blocks") if isinstance(m, nn.Linear)}
    assert muon == linear and len(muon) == 2 * 6
    assert decayed == {"embedding.weight", "head.weight"}
    assert kept == {name for name, p in model.named_parameters() if p.ndim == 1}


def test_muon_and_adamw() -> None:
    """Both together are torch's Muon and AdamW each on its own bit for bit."""
    together, apart = tiny_model(bias=True), tiny_model(bias=True)
    matrices = [p for name, p in apart.named_parameters() if name.startswith("blocks") and p.ndim == 2]
    embeddings = [apart.embedding.weight]
    others = [p for p in apart.parameters() if p.ndim < 2]
    muon = torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1, momentum=0.9, adjust_lr_fn="original")
    adamw = torch.optim.AdamW(
        [{"params": embeddings, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=0.003,
        betas=(0.9, 0.99),
        fused=True,
    )
    schedulers = [LambdaLR(part, lambda step: MUON.factor(step, 9)) for part in (muon, adamw)]
    optimizer, scheduler = scheduled(together)
    start = parameters(together)
    for step in range(9):
        train(together, optimizer, scheduler, [step])
        backward(apart, step=step)
        for part, its_scheduler in zip((muon, adamw), schedulers, strict=True):
            part.step()
            its_scheduler.step()
        assert all_equal(parameters(together), parameters(apart)), step
    assert not any(map(torch.equal, start, parameters(together)))
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == [group["lr"] for part in (muon, adamw) for group in part.param_groups]


def test_one_state() -> None:
    """There is one state and one list of groups."""
    model = tiny_model()
    optimizer, scheduler = scheduled(model)
    train(model, optimizer, scheduler, range(2))
    assert_linked(optimizer)
    saved = optimizer.state_dict()
    assert set(saved) == {"state", "param_groups"}
    places = [place for group in saved["param_groups"] for place in group["params"]]
    assert places == list(range(len(list(model.parameters())))) == sorted(saved["state"])
    kinds = [{frozenset(saved["state"][place]) for place in group["params"]} for group in saved["param_groups"]]
    adamw = {frozenset({"step", "exp_avg", "exp_avg_sq"})}
    assert kinds == [{frozenset({"momentum_buffer"})}, adamw, adamw]


def assert_linked(optimizer: MuonWithAdamW) -> None:
    """The parts work on the state and the groups of the whole."""
    groups = [group for part in optimizer.parts for group in part.param_groups]
    assert len(groups) == len(optimizer.param_groups)
    assert all(a is b for a, b in zip(groups, optimizer.param_groups, strict=True))
    assert all(part.state is optimizer.state for part in optimizer.parts)


@pytest.mark.parametrize("recipe", [MUON, ADAMW], ids=["muon", "adamw"])
def test_a_saved_optimizer_continues_bit_for_bit(recipe: Recipe) -> None:
    through = tiny_model()
    optimizer, scheduler = scheduled(through, recipe=recipe)
    train(through, optimizer, scheduler, range(4))
    file = io.BytesIO()
    torch.save((through.state_dict(), optimizer.state_dict(), scheduler.state_dict()), file)
    train(through, optimizer, scheduler, range(4, 9))

    file.seek(0)
    model_state, optimizer_state, scheduler_state = torch.load(file, weights_only=True)
    resumed = tiny_model(seed=5)
    optimizer, scheduler = scheduled(resumed, recipe=recipe)
    resumed.load_state_dict(model_state)
    optimizer.load_state_dict(optimizer_state)
    scheduler.load_state_dict(scheduler_state)
    if isinstance(optimizer, MuonWithAdamW):
        assert_linked(optimizer)
    train(resumed, optimizer, scheduler, range(4, 9))
    assert all_equal(parameters(through), parameters(resumed))


def test_closure() -> None:
    """A closure is called once with gradients and its loss returned."""
    model = tiny_model()
    optimizer = MUON.optimizer(model)
    calls = []

    def closure() -> Tensor:
        calls.append(torch.is_grad_enabled())
        backward(model, step=0)
        return torch.tensor(1.5)

    assert optimizer.step(closure) == 1.5
    assert calls == [True]


def test_muon_without_matrices() -> None:
    """Without matrices in the blocks Muon leaves all to AdamW."""
    model = tiny_model()
    for matrix in matrices_of(model):
        matrix.requires_grad_(False)
    optimizer, scheduler = scheduled(model)
    assert isinstance(optimizer, MuonWithAdamW)
    assert [type(part) for part in optimizer.parts] == [torch.optim.AdamW]
    before = model.embedding.weight.detach().clone()
    train(model, optimizer, scheduler, range(2))
    assert not torch.equal(before, model.embedding.weight)


STILL = ("qkv.to_q.weight", "qkv.to_k.weight", "pool_k", "pool_v")  # of frozen_qk and nsa


@pytest.mark.parametrize("optimizer_name", ["adamw", "muon"])
@pytest.mark.parametrize("variant", one_of_each())
def test_every_parameter_trains(variant: str, optimizer_name: str) -> None:
    """Every shipped optimizer trains every parameter of every variant."""
    config = compose_config(
        [
            f"attention={variant}",
            f"optimizer={optimizer_name}",
            "model.n_layers=2",
            "model.n_heads=2",
            "model.d_model=16",
            f"model.context={CONTEXT}",
            "model.dropout=0.0",
        ]
    )
    model = build_model(config, VOCAB)
    recipe: Recipe = instantiate(config, "optimizer")
    optimizer, scheduler = scheduled(model, recipe=recipe)
    listed = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(p) for p in model.parameters() if p.requires_grad}
    before = parameters(model)
    train(model, optimizer, scheduler, range(2))
    for (name, p), old in zip(model.named_parameters(), before, strict=True):
        assert p.isfinite().all(), name
        # What is frozen stays, and so does what so short a text gives no gradient.
        still = not p.requires_grad or bool((p.grad == 0).all())
        assert torch.equal(p, old) if still and name.endswith(STILL) else not torch.equal(p, old), name


@pytest.mark.parametrize(
    ("name", "row"), [("gla", "decay.bias"), ("kda", "decay.bias"), ("rwkv7", "gain"), ("ttt", "offset")]
)
def test_what_decays(name: str, row: str) -> None:
    """Weight decay acts on parameters with two axes or more, rows for each head among them, and on no others."""
    config = compose_config([f"attention={name}", "model=tiny"])
    model = build_model(config, 64)
    groups = instantiate(config, "optimizer").optimizer(model).param_groups
    decays = {id(p): group["weight_decay"] > 0 for group in groups for p in group["params"]}
    assert all(decays[id(p)] == (p.ndim > 1) for p in model.parameters())
    rows = [p for key, p in model.named_parameters() if key.endswith(f"attention.{row}")]
    assert rows and all(decays[id(p)] for p in rows)
