"""Training that starts with the weights of another run: from there, once, and refused where they do not fit."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from tests.interchange.by_hand import write_llama
from tests.training.launch import TINY, folder_of, run_here, write_text

import attnlab
from attnlab.config.compose import compose_job
from attnlab.config.from_folder import with_folder
from attnlab.errors import UsageError
from attnlab.interchange.hf_import import import_folder
from attnlab.store.checkpoints import CheckpointFolder
from attnlab.store.digests import digest
from attnlab.store.metrics_csv import read_metrics
from attnlab.training.checkpoint import load_checkpoint, network_weights
from attnlab.training.initial_weights import sha256_of_weights
from attnlab.training.run import run

SHAPE = ("model.n_layers", "model.n_heads", "model.d_model", "model.context", "tokenizer")
REST = [word for word in TINY if not word.startswith(SHAPE)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of grouped queries on a text."""
    folder = tmp_path_factory.mktemp("source")
    run_here(folder, "attention.n_kv_heads=1", "tokenizer=char", "trainer.max_steps=8", variant="gqa")
    return folder_of(folder, "gqa")


def words(folder: Path, source: Path, *more: str) -> list[str]:
    """A tiny run that says nothing of its model."""
    text = f"data.path={write_text(folder)}"
    paths = (f"paths.runs={folder / 'runs'}", f"paths.cache={folder / 'cache'}")
    return [*REST, text, *paths, "trainer.max_steps=4", "trainer.val_every=2", f"init_from={source}", *more]


def losses(folder: Path) -> list[tuple[int, float]]:
    return [(row.step, row.value) for row in read_metrics(folder) if row.metric == "val/loss"]


def newest(folder: Path) -> Path:
    path, _ = CheckpointFolder(folder / "checkpoints").newest()
    assert path is not None
    return path


def start(arguments: list[str]) -> dict[str, object]:
    config, variant = compose_job(arguments)
    return run(config, variant=variant)


def test_start(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Model and tokens are those of the folder, step 0 is where it ended, the optimizer is new, and a seed draws no
    weights."""
    summary = start(words(tmp_path, source, "streams.init=7"))
    here = folder_of(tmp_path, "gqa")
    assert losses(here)[0] == (0, losses(source)[-1][1]) and losses(here)[-1][0] == 4
    assert capsys.readouterr().out.count("streams.init changes nothing") == 1
    checkpoint = load_checkpoint(newest(here))
    assert checkpoint["optimizer_states"][0]["state"][0]["step"] == 4
    digest = sha256_of_weights(network_weights(newest(source)))
    assert checkpoint["fingerprint"]["init_from"] == summary["init_sha256"] == digest
    model, tokenizer = attnlab.load(here)
    assert tokenizer.kind == "characters" and model.context == 32


def test_settings(source: Path, tmp_path: Path) -> None:
    """What is typed about the model stands, single settings over those of the folder, an option in their place."""
    config, variant = compose_job(words(tmp_path, source, "model.dropout=0.1", "model.context=16"))
    assert (config.model.d_model, config.model.dropout, config.model.context) == (32, 0.1, 16)
    assert config.attention["n_kv_heads"] == 1 and variant == "gqa"
    config, variant = compose_job(words(tmp_path, source, "attention=mqa", "tokenizer=byte"))
    assert (
        variant == "mqa"
        and config.model.d_model == 32
        and config.attention["n_heads"] == 2
        and config.tokenizer["_target_"].endswith("Bytes")
    )
    assert compose_job([])[0].init_from is None
    cfg = OmegaConf.create({"init_from": None, "model": {"d_model": 3}})
    assert with_folder(cfg, []) == (cfg, None)


def test_identity(source: Path, tmp_path: Path) -> None:
    """Equal weights are one start, wherever they lie; other weights are another; who names none is who was."""
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    assert sha256_of_weights(network_weights(newest(copy))) == sha256_of_weights(network_weights(newest(source)))
    weights = network_weights(newest(copy))
    name = next(iter(weights))
    for other in (weights | {name: weights[name] + 1e-6}, {f"{n}x": t for n, t in weights.items()}):
        assert sha256_of_weights(other) != sha256_of_weights(weights)
    assert sha256_of_weights(dict(reversed(weights.items()))) == sha256_of_weights(weights)
    assert "init_from" not in load_checkpoint(newest(source))["fingerprint"]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["attention=multi_head"], r"holds another model: attention\.n_kv_heads \(None here, 1 there\)$"),
        (["model=nano"], r"holds another model: .*model\.d_model \(128 here, 32 there\)"),
        (["model.n_layers=1"], r"holds another model: model\.n_layers \(1 here, 2 there\)$"),
        (["tokenizer=byte"], r"other tokens \(char, \d+ ids\) than these \(byte, 256\): tokenizer=run takes"),
        (["data=recall", "~data.path"], r"other tokens"),
        (
            ["init_from=nowhere"],
            r"^init_from \(nowhere\) must be the folder of a run or an import: it has no config",
        ),
    ],
)
def test_refused(typed: list[str], message: str, source: Path, tmp_path: Path) -> None:
    """Other sizes, other tokens and what is no run are refused in a line, before anything is written."""
    arguments = words(tmp_path, source)
    if typed[-1].startswith("~"):
        arguments, typed = [word for word in arguments if not word.startswith("data")], typed[:-1]
    if typed[0].startswith("init_from"):
        arguments = arguments[:-1]
    with pytest.raises(UsageError, match=message) as error:
        start([*arguments, *typed])
    assert "\n" not in str(error.value) and not (tmp_path / "runs").exists()


def test_damaged_weights(source: Path, tmp_path: Path) -> None:
    """A folder without a checkpoint, and one whose weights are no numbers, are refused by name."""
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    path = newest(copy)
    checkpoint = load_checkpoint(path)
    name = next(iter(checkpoint["state_dict"]))
    checkpoint["state_dict"][name].fill_(torch.nan)
    torch.save(checkpoint, path)
    manifest = json.loads((copy / "checkpoints" / "manifest.json").read_text())
    entry = manifest["files"][path.name]
    manifest["files"] = {path.name: {**entry, **digest(path.read_bytes())}}
    (copy / "checkpoints" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match=rf"{name.removeprefix('model.')} holds numbers that are not finite$"):
        start(words(tmp_path, copy))
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(UsageError, match=r"init_from \(.*\) must be the folder of a run or an import: it has no check"):
        start(words(tmp_path, copy))


def test_import(tmp_path: Path) -> None:
    """Training goes on from a model that others have trained, under its type's name, on a text of one's own."""
    imported = import_folder(write_llama(tmp_path / "hf"), tmp_path / "imported")
    summary = start(words(tmp_path, imported.path, "maps.steps=0", "sample.steps=0"))
    here = folder_of(tmp_path, "llama")
    assert summary["variant"] == "llama" and losses(here)[-1][1] < losses(here)[0][1]
    model, _ = attnlab.load(imported.path)
    first = network_weights(newest(here))
    assert summary["init_sha256"] == sha256_of_weights(model.state_dict()) != sha256_of_weights(first)


@pytest.mark.slow
def test_goes_on(source: Path, tmp_path: Path) -> None:
    """A run that was begun so goes on from its own step; a longer one goes on from it by resume_from=."""
    first = start(words(tmp_path, source))
    again = start(
        words(
            tmp_path, source, "experiment_name=more", "trainer.max_steps=6", f"resume_from={folder_of(tmp_path, 'gqa')}"
        )
    )
    assert (first["step"], again["step"]) == (4, 6)
    more = folder_of(tmp_path, "gqa", "more")
    assert losses(more)[:3] == losses(folder_of(tmp_path, "gqa"))
