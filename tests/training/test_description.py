"""What a run says about itself: its cost, its settings, its surroundings, and its summary."""

import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata
from tests.training.fits import CONTEXT, VOCAB, tiny_model

from attnlab.build import build_model
from attnlab.config.compose import compose_config
from attnlab.model import GPT
from attnlab.training.description import PACKAGES, cost_table, environment, to_yaml
from attnlab.training.recorders.tensorboard import TensorBoardRecorder

SIZES = ("model.n_layers=4", "model.n_heads=2", "model.d_model=16", f"model.context={CONTEXT}")


def built(*overrides: str) -> GPT:
    return build_model(compose_config([*SIZES, *overrides]), VOCAB)


def table_rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert re.fullmatch(r"[|:-]+", lines[1])
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert {len(row) for row in cells} == {7}
    return [cells[0], *cells[2:]]


# Cost


def test_layers_that_cost_the_same_share_a_row() -> None:
    header, row = table_rows(cost_table(built(), CONTEXT))
    names = ["layers", "attention", "parameters", "forward FLOPs", "decode FLOPs per token", "state bytes", "pairs"]
    assert header == names
    # Four 16 x 16 projections; 2 FLOPs per multiply-add; keys and values of 8 tokens; 8 * 9 / 2 pairs.
    projections = 4 * 16 * 16
    forward, decode = 2 * 8 * projections + 4 * 8 * 8 * 16, 2 * projections + 4 * 9 * 16
    numbers = [f"{n:,}" for n in (projections, forward, decode, 2 * 8 * 16 * 4, 36)]
    assert row == ["0 to 3", "MultiHeadAttention", *numbers]


def test_rows_of_layers() -> None:
    """Layers that differ have rows of their own."""
    model = built("attention=hybrid", "attention.kinds.local.mask.window=3")
    text = cost_table(model, CONTEXT)
    _, local, whole = table_rows(text)
    assert (local[0], whole[0]) == ("0 to 2", "3")
    for row, layer in ((local, 0), (whole, 3)):
        cost = model.layers[layer].attention.cost(CONTEXT)
        assert row[2:] == [f"{n:,}" for n in cost]
    assert int(local[-1]) < int(whole[-1]) == 36
    assert text.endswith(f"The whole model has {sum(p.numel() for p in model.parameters()):,} parameters.")


def test_table_without_pairs() -> None:
    """Where there are no pairs the table says so."""
    _, row = table_rows(cost_table(built("attention=gated_delta"), CONTEXT))
    assert row[-1] == "none" and "none" not in row[:-1]


# Settings


def test_config_as_yaml() -> None:
    """A config as YAML keeps its order and its letters."""
    config = {"b": 1, "a": {"z": None, "text": "größer → 日本"}, "rate": 2e-3, "list": [1, "x"]}
    text = to_yaml(config)
    assert yaml.safe_load(text) == config
    assert [line.split(":")[0] for line in text.splitlines() if not line.startswith((" ", "-"))] == list(config)
    assert "größer → 日本" in text


def test_tensorboard_texts(tmp_path: Path) -> None:
    """Settings cost and hyperparameters are shown in TensorBoard."""
    board, model = TensorBoardRecorder(tmp_path, resume_at=None), tiny_model()
    config = {"model": {"context": CONTEXT}, "note": "# no heading"}
    board.show_settings(config, model, {"variant": "multi_head", "lr": 0.01, "seed": 3})
    board.scalars({"val/loss": 1.5}, 4)
    board.close()
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0})
    events.Reload()
    shown = {
        tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode()
        for tag in ("config/text_summary", "cost/text_summary")
    }
    lines = shown["config/text_summary"].splitlines()
    assert all(line.startswith("    ") for line in lines), "as code, not as Markdown"
    assert yaml.safe_load("\n".join(line[4:] for line in lines)) == config
    assert shown["cost/text_summary"] == cost_table(model, CONTEXT)
    found = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    hyper = metadata.parse_session_start_info_plugin_data(found).hparams
    assert {name: value.string_value or value.number_value for name, value in hyper.items()} == {
        "variant": "multi_head",
        "lr": 0.01,
        "seed": 3.0,
    }
    layout = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    charts = {
        chart.title: list(chart.multiline.tag)
        for category in layout_pb2.Layout.FromString(layout).category
        for chart in category.chart
    }
    assert charts["loss"] == ["train/loss", "val/loss"]
    assert charts["learning rate"] == ["vitals/optim/lr"]
    assert len(list(tmp_path.iterdir())) == 1


def test_untraceable_model(tmp_path: Path) -> None:
    """A model that cannot be traced is no end but a text."""
    board, model = TensorBoardRecorder(tmp_path, resume_at=None), tiny_model()
    model.layers[0].register_forward_pre_hook(refuse_to_be_traced)
    board.show_graph(model.train())
    board.close()
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0})
    events.Reload()
    text = events.Tensors("graph/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text == "    torch cannot trace this model: not this one" and model.training


@pytest.mark.parametrize("variant", ["multi_head", pytest.param("gated_delta", marks=pytest.mark.slow)])
def test_the_graph_of_a_model_has_its_modules(variant: str, tmp_path: Path) -> None:
    """In a process of its own: tests check annotations, and to the tracer a size is a tensor, not an int."""
    code = f"""
from pathlib import Path
from attnlab.build import build_model
from attnlab.config.compose import compose_config
from attnlab.training.recorders.tensorboard import TensorBoardRecorder
board = TensorBoardRecorder(Path({str(tmp_path)!r}), resume_at=None)
board.show_graph(build_model(compose_config({["attention=" + variant, *SIZES]!r}), {VOCAB}))
board.close()
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    names = {node.name for node in events.Graph().node}
    assert any("attention" in name for name in names), sorted(names)[:20]


def refuse_to_be_traced(*_: Any) -> None:
    raise RuntimeError("not this one")


# Surroundings


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment names versions platform and command."""
    monkeypatch.setattr(sys, "argv", ["train.py", "attention=gqa"])
    found = environment()
    assert found["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {name: found["versions"][name] for name in PACKAGES} == {name: version(name) for name in PACKAGES}
    assert found["command"] == "train.py attention=gqa"
    assert found["platform"]
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(("changes", "dirty"), [("", False), (" M src/attnlab/model.py", True)])
def test_commit(changes: str, dirty: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit of a checkout is named and whether it was changed."""

    def git(words: list[str], **settings: Any) -> subprocess.CompletedProcess[str]:
        told = {"rev-parse": "a" * 40, "status": changes}
        answer = next((told[word] for word in words if word in told), "")
        return subprocess.CompletedProcess(words, int("check-ignore" in words), f"{answer}\n", "")

    monkeypatch.setattr(subprocess, "run", git)
    found = environment()
    assert (found["git_commit"], found["git_dirty"]) == ("a" * 40, dirty)


@pytest.mark.parametrize("trouble", [FileNotFoundError("git"), subprocess.TimeoutExpired("git", 10), None])
def test_no_commit(trouble: Exception | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without git or a checkout there is no commit."""

    def git(words: list[str], **settings: Any) -> subprocess.CompletedProcess[str]:
        if trouble is not None:
            raise trouble
        return subprocess.CompletedProcess(words, 128, "", "fatal: not a git repository")

    monkeypatch.setattr(subprocess, "run", git)
    found = environment()
    assert found["git_commit"] is None and found["git_dirty"] is None
