"""`attnlab export`: a folder from a run, and what is refused."""

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tests.cli.test_main import typed
from tests.training.launch import folder_of, run_here

import attnlab
from attnlab.data.tokenizers import ByteTokenizer
from attnlab.interchange.export_run import exported
from attnlab.interchange.lm_eval_task import TASK, prefix_id
from attnlab.interchange.model_card import model_card
from attnlab.runs import read_config
from attnlab.store.run_folder import RunFolder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny finished run, with a report beside it."""
    folder = tmp_path_factory.mktemp("run")
    small = ("trainer.max_steps=2", "maps.steps=2", "sample.steps=1", "model.d_model=16", "model.n_layers=1")
    run_here(folder, *small, "model.context=16", variant="gqa")
    home = folder_of(folder, "gqa")
    report = home.parent.parent / "report"
    report.mkdir()
    row = {"folder": home.parent.name, "baseline": "multi_head-0", "n": 3, "verdict": "cannot tell"}
    with (report / "verdicts.csv").open("w") as file:
        writer = csv.DictWriter(file, [*row, "mean_difference", "low", "high"])
        writer.writeheader()
        writer.writerow({**row, "mean_difference": 0.01, "low": -0.1, "high": 0.2})
    return home


def test_hf(run: Path, tmp_path: Path) -> None:
    """A folder for transformers, with a card that says what the run came to."""
    assert typed("export", f"run={run}", f"folder={tmp_path / 'out'}") == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["model_type"], config["vocab_size"], config["dtype"]) == ("attnlab", 256, "float32")
    card = (tmp_path / "out" / "README.md").read_text()
    summary = json.loads((run / "summary.json").read_text())
    for text in (f"{summary['val_loss']:.4f}", summary["data_sha256"], "**cannot tell**, by 0.01", "gqa, seed 0"):
        assert text in card
    assert str(run.parent) not in card


def test_card_is_of_its_files(run: Path) -> None:
    """The card in the folder is what its files say; without remote code nobody is asked to trust any."""
    home = RunFolder(run)
    config, (model, tokenizer) = read_config(home), attnlab.load(run)
    files = exported(home, config, model, tokenizer, to="hf")
    assert files["README.md"].decode() == model_card(home, config, tokenizer, remote=True)
    assert "trust" not in model_card(home, config, ByteTokenizer(), remote=False)


def test_safetensors(run: Path, tmp_path: Path) -> None:
    """The weights alone, by our names; a tied head is the embedding."""
    assert typed("export", f"run={run}", "to=safetensors", f"folder={tmp_path / 'out'}") == 0
    tensors, model = load_file(tmp_path / "out" / "model.safetensors"), attnlab.load(run)[0]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.safetensors"]
    assert tensors.keys() == model.state_dict().keys() - {"head.weight"}
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in tensors.items())


def test_lm_eval(run: Path, tmp_path: Path) -> None:
    """Validation rows as a task: contexts and last words that stand in the text, behind each other."""
    assert typed("export", f"run={run}", "to=lm_eval", f"folder={tmp_path / 'task'}") == 0
    task = yaml.safe_load((tmp_path / "task" / TASK).read_text())
    rows = [json.loads(line) for line in Path(task["dataset_kwargs"]["data_files"]).read_text().splitlines()]
    text = (run.parents[3] / "text.txt").read_text()
    assert rows and all(f"{row['context']} {row['answer']}" in text for row in rows)
    assert prefix_id(attnlab.load(run)[1]) == ord("\n")


def test_nothing_is_written_over(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that holds something is refused in one line, and so is a run that is none: nothing is written."""
    (tmp_path / "mine").write_text("x")
    assert typed("export", f"run={run}", f"folder={tmp_path}") == 2
    assert typed("export", f"run={tmp_path}", f"folder={tmp_path / 'out'}") == 2
    assert typed("export", f"run={run}", f"folder={tmp_path / 'out'}", "push=somebody") == 2
    first, second, third = capsys.readouterr().err.splitlines()
    assert "push (somebody) must be owner/name" in third
    assert "nothing is written over" in first and "must be the folder of a run" in second
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
