"""Heads of foreign decoders silenced: as if their part of the output projection were zero, and refused elsewhere."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tests.interchange.foreign.models import save, tiny

from attnlab.cli import main
from attnlab.errors import UsageError
from attnlab.interchange.foreign.head_silencing import decoder_maps, read_rows, silence
from attnlab.interchange.foreign.loading import ForeignModel

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install -e '.[hf]'")
pytestmark = pytest.mark.filterwarnings("ignore")
TEXT = "The goat sat on the 山, and the crow did not. " * 3


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("silenced")
    (root / "text.txt").write_text(TEXT, encoding="utf-8")
    for name in ("gpt2", "t5", "bert"):
        save(name, root / name)
    return root


def loaded(name: str, root: Path) -> ForeignModel:
    tokenizer = transformers.AutoTokenizer.from_pretrained(root / "gpt2")
    return ForeignModel(tiny(name), tokenizer, name, 0)


@pytest.mark.parametrize(
    ("name", "path", "layer", "head_dim", "transposed"),
    [
        ("gpt2", "transformer.h.1.attn.c_proj", 1, 8, True),
        pytest.param("llama", "model.layers.0.self_attn.o_proj", 0, 8, False, marks=pytest.mark.slow),
        ("qwen3_next", "model.layers.3.self_attn.o_proj", 3, 8, False),
    ],
)
def test_as_without_its_projection(
    root: Path, name: str, path: str, layer: int, head_dim: int, transposed: bool
) -> None:
    """The loss without a head is that of a model whose output projection has zeros for it."""
    model = loaded(name, root)
    rows = read_rows(model, root / "text.txt", 60)
    whole, effects = silence(model, rows)
    zero = {(effect.layer, effect.head): effect.zero for effect in effects}
    ids = torch.tensor(rows)
    weight = model.model.get_submodule(path).weight
    cut = slice(2 * head_dim, 3 * head_dim)

    def loss() -> float:
        with torch.no_grad():
            return float(F.cross_entropy(model.model(ids[:, :-1]).logits[0], ids[0, 1:]))

    assert whole == pytest.approx(loss(), abs=1e-5)
    with torch.no_grad():
        (weight if transposed else weight.T)[cut] = 0
    assert zero[layer, 2] == pytest.approx(loss() - whole, abs=1e-5)
    assert len({round(change, 9) for change in zero.values()}) == len(zero)


def test_rows(root: Path) -> None:
    """A text longer than the context is scored in rows; each token once."""
    model = loaded("gpt2", root)
    model.model.config.max_position_embeddings = 20
    rows = read_rows(model, root / "text.txt", 50)
    assert [len(row) for row in rows] == [21, 21, 11] and all(a[-1] == b[0] for a, b in pairwise(rows))
    whole, effects = silence(model, rows)
    ids = torch.tensor([[token for row in rows for token in row[:-1]] + [rows[-1][-1]]])
    assert ids.shape == (1, 51) and 0 < whole < 20 and next(effects).layer == 0


def test_command(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same table, file and pictures as for a run."""
    main(["ablate_heads", f"hf={root / 'gpt2'}", f"text={root / 'text.txt'}", f"folder={tmp_path}", "tokens=40"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(f"on 40 tokens of {root / 'text.txt'}, with all heads") and lines[2].startswith("L00H00")
    (file,) = tmp_path.rglob("*.json")
    content = json.loads(file.read_text())
    assert len(content["heads"]) == 8 and content["tokens"] == 40
    assert len(list(tmp_path.rglob("*.png"))) == 2 and list(tmp_path.glob("events*"))


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (("hf={root}/t5", "text={root}/text.txt"), "hf (t5) has an encoder beside its decoder"),
        (("hf={root}/bert", "text={root}/text.txt"), "hf (bert) reads later tokens, so it predicts none"),
        (("hf={root}/gpt2",), "attnlab ablate_heads hf=... needs text=..."),
        (("hf={root}/gpt2", "text={root}/none.txt"), "none.txt) cannot be read: No such file or directory"),
        (("hf={root}/gpt2", "text={root}/gpt2/model.safetensors"), "cannot be read: 'utf-8' codec"),
        (("run=a", "text=b"), "text (b) goes with hf= alone"),
        ((), "attnlab ablate_heads needs run=... or hf=..."),
    ],
)
def test_refused(
    root: Path,
    argv: tuple[str, ...],
    reason: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One line, exit code 2, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(["ablate_heads", *(word.format(root=root) for word in argv)])
    error = capsys.readouterr().err
    assert reason in error and len(error.strip().splitlines()) == 1 and not list(tmp_path.iterdir())


def test_no_softmax(root: Path) -> None:
    """A model of memories alone has no head to silence here."""
    with pytest.raises(UsageError, match=r"hf \(mamba2\) has no softmax attention whose heads could be silenced"):
        decoder_maps(loaded("mamba2", root), [5, 6, 7])
