"""Exported folders with remote code, opened where there is no attnlab."""

import ast
import json
import os
import re
import subprocess
import sys
from functools import cache
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tests.laws.cases import NAMES
from tests.limits import HANG

import attnlab
from attnlab.build import build_model
from attnlab.config.compose import compose_config
from attnlab.errors import UsageError
from attnlab.generation import generate
from attnlab.interchange.remote_export import CODE, check_imports, quoted, remote_files
from attnlab.laws.subject import perturbed
from attnlab.model import GPT

STRANGER = Path(__file__).with_name("stranger.py")
SIZES = ("model.d_model=24", "model.n_heads=4", "model.context=64", "model.dropout=0")
VOCAB, LENGTH, NEW = 29, 11, 8
OTHERS = (
    "multi_head position=learned",
    "multi_head position=t5",
    "gqa model.norm=rms model.mlp=swiglu model.tie=false",
)
FAST = ("gated_delta", "multi_head position=learned")
CASES = [pytest.param(case, marks=() if case in FAST else pytest.mark.slow) for case in (*NAMES, *OTHERS)]
SAME = 1e-10  # float64: the same code, on rows in other batches
ROUNDED = {"loss": 1e-6, "gradient": 1e-6}  # transformers takes the loss of logits in float32


def written(case: str, folder: Path) -> Path:
    """A folder of a variant with every parameter moved, and what it gives by itself."""
    variant, *overrides = case.split()
    config = compose_config([f"attention={variant}", *SIZES, *overrides])
    model = build_model(config, VOCAB).eval()
    perturbed(model)
    model.double()
    folder.mkdir()
    settings, tensors, code = remote_files(model, config, torch.float64)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for name, text in {"config.json": json.dumps(settings), **code}.items():
        (folder / name).write_text(text, encoding="utf-8")
    torch.save(expected(model), folder / "expected.pt")
    return folder


def expected(model: GPT) -> dict[str, object]:
    ids = torch.randint(VOCAB, (3, LENGTH), generator=torch.Generator().manual_seed(0))
    logits = model(ids)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    gradient = model.embedding.weight.grad
    assert gradient is not None
    settings = {"temperature": 0.7, "top_k": 12, "top_p": 0.8}
    return {
        "ids": ids,
        "logits": logits.detach(),
        "loss": loss.detach(),
        "gradient": gradient.clone(),  # else it becomes bfloat16 with the rest
        "maps": [each.weights for each in model.attention_maps(ids)],
        "greedy": torch.tensor([list(generate(model, row, tokens=NEW, temperature=0)) for row in ids]),
        "sampled": torch.tensor(list(islice(generate(model, ids[0], tokens=NEW, seed=0, **settings), NEW))),
        "half": halved(model, ids),
    }


@torch.no_grad()
def halved(model: GPT, ids: torch.Tensor) -> torch.Tensor:
    return model.bfloat16()(ids)


@cache
def measured(cases: tuple[str, ...]) -> dict[str, Any]:
    """How far the folders of some variants are from what was expected, by case and by what was looked at; of the first,
    what else was looked at."""
    with TemporaryDirectory() as home:
        folders = [written(case, Path(home) / str(i)) for i, case in enumerate(cases)]
        lines = stranger_says(home, *map(str, folders)).splitlines()
    return dict(zip((*cases, "once"), map(json.loads, lines), strict=True))


def stranger_says(home: str, *words: str) -> str:
    """What tests/interchange/stranger.py prints in a process that cannot import attnlab."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": f"{home}/modules", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(STRANGER), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=4 * HANG, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def together(case: str) -> tuple[str, ...]:
    """The cases that go through one process with this one."""
    if case in FAST:
        return FAST
    others = [each for each in (*NAMES, *OTHERS) if each not in FAST]
    start = others.index(case) // 10 * 10
    return tuple(others[start : start + 10])


@pytest.mark.parametrize("case", CASES)
def test_stranger(case: str) -> None:
    """Logits, loss, gradient, maps, hidden states, texts with and without a cache, padded rows, copies and bfloat16 are
    ours, in a process without attnlab."""
    gaps = measured(together(case))[case]
    assert {name: gap for name, gap in gaps.items() if not gap <= ROUNDED.get(name, SAME)} == {}


def test_refusals() -> None:
    """What cannot be is refused by name: gaps, rows without a token, padding behind a row that goes on, positions that
    do not count, decoding that goes back."""
    parts = (
        "has a gap in a row",
        "leaves a row without a token",
        "padded on the right cannot be continued",
        "position_ids must count the tokens of a row",
        "either input_ids or inputs_embeds",
        "inputs_embeds and a cache",
        "AttnlabForCausalLM only supports",
        "AttnlabForCausalLM only supports",
        "AttnlabForCausalLM does not support Flash Attention",
    )
    for message, part in zip(measured(FAST)["once"]["refused"], parts, strict=True):
        assert part in message


def test_hub_cache() -> None:
    """A folder that lies in the Hub's cache opens by its name, where each file that it executes is looked at apart."""
    assert measured(FAST)["once"]["hub"] <= SAME


def test_embeddings_in() -> None:
    """Vectors in place of tokens."""
    assert measured(FAST)["once"]["embedded"] <= SAME


def test_word_for_word(tmp_path: Path) -> None:
    """Every module that an exported model runs is the package's file, to the letter; so are the files around them."""
    folder = written("hybrid", tmp_path / "folder")
    scope: dict[str, Any] = {"__name__": "source", "__file__": "source.py"}
    exec((folder / "attnlab_source.py").read_text(encoding="utf-8"), scope)
    src = Path(attnlab.__file__).parents[1]
    assert "attnlab/attention/head_wrapper.py" in scope["SOURCES"]
    for file, text in scope["SOURCES"].items():
        assert text == (src / file).read_text(encoding="utf-8"), file
    for name in ("modeling_attnlab.py", "configuration_attnlab.py"):
        assert (folder / name).read_bytes() == (CODE / name).read_bytes()


@pytest.mark.parametrize(
    "text", ["x = 1\n", "'''a'''\n", "from .x import y\n", 'a = "\\\\"\n', "'ends with'", "\r\n", ""]
)
def test_quoted(text: str) -> None:
    """Any source comes back as it was; one that imports from beside itself stands in a line of its own, where
    transformers, which reads lines, does not look for the file."""
    assert ast.literal_eval(quoted(text)) == text
    assert not re.search(r"^\s*from\s+\.(\S+)\s+import", quoted(text), flags=re.MULTILINE)


def test_imports_that_cannot_go_along() -> None:
    """`import a.b` would bind a name of another package; every other form is told to mean the copy."""
    fine = "import attnlab.x as y\nimport own\nfrom attnlab.x import y\nimport torch.nn\n"
    check_imports("own.py", fine, {"attnlab", "own"})
    with pytest.raises(UsageError, match=r"own.py says `import attnlab.x`, which cannot go along"):
        check_imports("own.py", "def f():\n    import attnlab.x\n", {"attnlab"})
