"""`attnlab maps` and `watch` for models of transformers: files, records of several steps, refusals in a line."""

from pathlib import Path

import pytest
from tests.inspection.event_records import read_records
from tests.interchange.foreign.models import save

from attnlab.cli import main
from attnlab.cli._foreign import check_either, check_unused
from attnlab.errors import UsageError
from attnlab.inspection.prompt_maps import load_prompt_maps

pytest.importorskip("transformers", reason="transformers is not installed: pip install -e '.[hf]'")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hybrid, an encoder with a decoder, and two checkpoints of a training."""
    root = tmp_path_factory.mktemp("hf")
    save("qwen3_next", root / "hybrid")
    save("t5", root / "t5")
    for step in (20, 100):
        save("gpt2", root / "mine" / f"checkpoint-{step}")
    return root


def typed(*argv: str) -> int:
    try:
        main(argv)
    except SystemExit as end:
        return int(str(end.code))
    return 0


def test_maps(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of a run's maps, below the current folder if no other is named."""
    monkeypatch.chdir(tmp_path)
    assert typed("maps", f"hf={root / 'hybrid'}", "prompt=The goat 山羊 🐐", "layers=0,3") == 0
    names = ["maps.safetensors", "layer_00.png", "layer_03.png", "index.html"]
    assert capsys.readouterr().out.splitlines() == [f"wrote maps/hybrid/{name}" for name in names]
    maps = load_prompt_maps("maps/hybrid/maps.safetensors")
    assert [(layer.layer, layer.kind) for layer in maps.layers] == [(0, "signed"), (3, "probability")]
    assert "".join(maps.tokens[:9]) == "The·goat·" and maps.run == "hybrid"


def test_parts(root: Path, tmp_path: Path) -> None:
    """An encoder with a decoder is three folders."""
    assert typed("maps", f"hf={root / 't5'}", "prompt=The goat", "target=Die", f"folder={tmp_path}") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "decoder.EncDecAttention",
        "decoder.SelfAttention",
        "encoder",
    ]


def test_watch(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The checkpoints of a training are steps of one run, and each prompt is a sentence of it."""
    for prompt in ("one", "two"):
        assert typed("watch", f"hf={root}/mine/checkpoint-*", f"prompt={prompt}", f"logdir={tmp_path}") == 0
    assert f"tensorboard --logdir {tmp_path}" in capsys.readouterr().out
    records = list(read_records(tmp_path / "mine"))
    assert [(r.probe, r.step, r.layer) for r in records] == [
        (probe, step, layer) for probe in ("one", "two") for step in (20, 100) for layer in (0, 1)
    ]
    assert typed("watch", f"hf=[{root}/mine/checkpoint-20]", "prompt=one", f"logdir={tmp_path}") == 0


REFUSED = [
    (("maps", "prompt=x"), "attnlab maps needs run=... or hf=..."),
    (("maps", "run=a", "hf=b", "prompt=x"), "attnlab maps takes run= (a) or hf= (b), not both"),
    (("maps", "run=a", "target=y", "prompt=x"), "target (y) goes with hf= alone"),
    (("maps", "hf=a", "revision=1", "prompt=x"), "revision (1) goes with download=true alone"),
    (("maps", "hf=/nowhere", "prompt=x"), "hf (/nowhere) is no folder"),
    (("maps", "hf={root}/t5", "prompt=x"), "hf (t5) needs a target= besides"),
    (("maps", "hf={root}/hybrid", "prompt=x", "layers=9"), "layers (9) must be a number of the layers that have a map"),
    (("watch", "hf=[{root}/mine/checkpoint-20,{root}/mine/checkpoint-7]", "prompt=x", "logdir=logs"), "is no folder"),
    (("watch", "hf={root}/none-*", "prompt=x", "logdir=logs"), "none-*) fits no folder"),
]


@pytest.mark.parametrize(("argv", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_refused(
    root: Path,
    argv: tuple[str, ...],
    reason: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One line and exit code 2, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    assert typed(*(word.format(root=root) for word in argv)) == 2
    error = capsys.readouterr().err
    assert reason in error and len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_unused() -> None:
    """A key that means nothing is refused; one at its default was not typed."""
    check_unused({"target": None, "allow_code": False}, of="hf=")
    with pytest.raises(UsageError, match=r"allow_code \(True\) goes with hf= alone"):
        check_unused({"allow_code": True}, of="hf=")
    check_either("maps", Path("a"), None)
