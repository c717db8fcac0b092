"""Our layers give the numbers that other people's code gives; docs/oracles.md says how, and what differs."""

from functools import partial
from importlib.metadata import PackageNotFoundError

import pytest
import torch
from tests.oracles.case import FOLDER, Case, load, version_of
from tests.oracles.record import CASES, DOCS, row
from torch import Tensor

from attnlab.attention.norm import RMSNorm
from attnlab.config.keys import options

# Ours alone decides these, or the oracle's rule lends them no gradient.
INDEXER = {
    f"indexer.{name}" for name in ("wq_b.weight", "wk.weight", "weights_proj.weight", "k_norm.weight", "k_norm.bias")
}
LATENTS = ("q_a_proj", "q_a_layernorm", "q_b_proj", "kv_a_proj_with_mqa", "kv_a_layernorm", "kv_b_proj")
PICKER = INDEXER | {"sinks"} | {f"{name}.weight" for name in (*LATENTS, "o_proj", "gate_proj")}
RATING = {
    *(f"compressor.indexer.{name}.weight" for name in ("kv_proj", "gate_proj", "kv_norm", "q_b_proj")),
    "compressor.indexer.scorer.weights_proj.weight",
    "compressor.indexer.position_bias",
}
BLOCKS = {f"indexer.{name}.weight" for name in ("q_proj", "k_proj", "q_norm", "k_norm")}
NO_GRADIENT = {
    "fla_dsa": {"q_idx", "k_idx", "w_idx"},
    "fla_ttt": {"q", "w", "b"},
    "gated_mla": INDEXER,
    "hy_v4_picks": INDEXER,
    "hy_v4_reads": {f"picker.{name}" for name in PICKER},
    "csa": RATING,
    "csa_alone": RATING,
    "msa": BLOCKS,
    "minimax_m3_sparse": BLOCKS,
}
BEYOND = {
    "mamba2": {"norm.weight", "out_proj.weight"},
    "lightning": {"norm.weight", "output_gate.weight", "out_proj.weight"},
}


def same(got: Tensor, wanted: Tensor, what: str, tolerance: float) -> None:
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance, msg=lambda text: f"{what}: {text}")


each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@each_case
def test_oracle(case: Case) -> None:
    """The layer gives the oracle's outputs and gradients."""
    told = load(case.name)
    inputs = {name: x.clone().requires_grad_() for name, x in told.inputs.items()}
    layer = case.build()
    for module in layer.modules():
        if isinstance(module, RMSNorm):
            module.eps = torch.finfo(torch.float64).eps  # as they were recorded
    outputs, names = case.ours(layer, inputs), list(told.gradients)
    gradients = torch.autograd.grad((outputs["y"] * told.dy).sum(), [inputs[name] for name in names])
    for name, wanted in told.outputs.items():
        same(outputs[name].detach(), wanted, name, case.tolerance)
    for name, got in zip(names, gradients, strict=True):
        same(got, told.gradients[name], f"gradient of {name}", case.tolerance)


@each_case
def test_every_input_of_a_recording_matters(case: Case) -> None:
    """A weight without influence would agree whatever we made of it."""
    told = load(case.name)
    silent = {name for name in told.inputs if not told.gradients.get(name, torch.zeros(1)).any()}
    assert silent == NO_GRADIENT.get(case.name, set()) | BEYOND.get(case.name, set())


def test_recordings() -> None:
    """Recordings are those of the cases and small."""
    files = list(FOLDER.iterdir())
    assert sorted(file.stem for file in files) == sorted(case.name for case in CASES)
    assert sum(file.stat().st_size for file in files) < 2_750_000


def test_at_least_95_variants_have_an_oracle() -> None:
    variants = {case.variant for case in CASES}
    assert variants <= set(options("attention"))
    assert len(variants) >= 95


def test_the_page_about_oracles_has_every_case() -> None:
    page = DOCS.read_text()
    assert [case.name for case in CASES if row(case) not in page] == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the oracles' own
@each_case
def test_the_oracle_still_gives_what_was_recorded(case: Case) -> None:
    try:
        version_of(case.package)
    except PackageNotFoundError:
        pytest.skip(
            f"needs {case.package}: make test-oracles installs packages; docs/oracles.md says how of repositories"
        )
    now, told = case.oracle(), load(case.name)
    check = partial(same, tolerance=1e-12)  # the same sums, which another machine may order in another way
    for kind in ("inputs", "outputs", "gradients"):
        fresh, kept = getattr(now, kind), getattr(told, kind)
        assert fresh.keys() == kept.keys()
        for name in kept:
            check(fresh[name].detach(), kept[name], f"{kind} {name}")
