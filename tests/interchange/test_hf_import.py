"""A run folder made of a model that others have trained is one like any other."""

from pathlib import Path

import pytest
import torch
from tests.inspection.event_records import read_records
from tests.interchange.by_hand import CONFIG, write_llama

from attnlab.cli import main
from attnlab.config.compose import compose_config
from attnlab.errors import UsageError
from attnlab.interchange.families.model_settings import settings_of_run
from attnlab.interchange.families.registry import native_form
from attnlab.interchange.hf_import import USUAL_CONTEXT, import_folder, read_model
from attnlab.runs import dataset_of, load, maps_of, read_config
from attnlab.store.run_folder import RunFolder
from attnlab.store.status import Status
from attnlab.training.prepare import prepare


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    home = tmp_path_factory.mktemp("imported")
    return import_folder(write_llama(home / "hf"), home / "runs" / "llama")


def test_is_a_run(run: RunFolder) -> None:
    """It is loaded, and mapped, and has its text, as any other."""
    model, tokenizer = load(run)
    assert tokenizer.kind == "hf" and tokenizer.n_vocab == 256 and tokenizer.decode(tokenizer.encode("né")) == "né"
    imported = read_model(run.path.parents[1] / "hf")
    assert all(torch.equal(p, imported.weights[name]) for name, p in model.named_parameters())
    assert [layer.weights.shape for layer in maps_of(run, "hello").layers] == [(2, 5, 5)]
    assert dataset_of(run, read_config(run), tokenizer).n_val_rows(model.context) > 1


def test_says_where_from(run: RunFolder) -> None:
    """The summary holds the config as it was, and digests of the weights and of every file of the folder."""
    summary = run.read_summary()
    run.check(summary)
    assert summary["status"] == Status.IMPORTED and summary["step"] == 0
    assert summary["imported"]["config"] == CONFIG and summary["imported"]["dtype"] == "F32"
    assert {*summary["imported"]["sha256"]} == {"model.safetensors"}
    assert {"config.yaml", "code.json", "metrics.csv"} <= {*summary["files"]}


def test_is_not_resumed(run: RunFolder, tmp_path: Path) -> None:
    """By name, with what there is instead."""
    config = compose_config([f"resume_from={run}", f"paths.runs={tmp_path}"])
    with pytest.raises(UsageError, match=r"resume_from .* that others have trained: .* init_from="):
        prepare(config, "gqa")


def test_context(run: RunFolder, tmp_path: Path) -> None:
    """Rows are as long as the model reads, but no longer than texts usually are; or as long as is asked for."""
    hf = run.path.parents[1] / "hf"
    assert read_config(run).model.context == 32
    assert read_model(hf, context=8).config.model.context == 8
    long = write_llama(tmp_path, max_position_embeddings=10**6)
    assert read_model(long).config.model.context == USUAL_CONTEXT
    with pytest.raises(UsageError, match=r"context \(33\) must be at most 32"):
        read_model(hf, context=33)


def test_goes_out_as_it_came(run: RunFolder) -> None:
    """What a config.json said beside our settings, it says again."""
    config = read_config(run)
    form = native_form(config, 256)
    assert form is not None
    family, _ = form
    origin = {**CONFIG, "bos_token_id": 7, "max_position_embeddings": 4096}
    again = family.config_like(settings_of_run(config, 256), origin)
    assert again.items() >= origin.items()


def test_folder_is_taken(run: RunFolder) -> None:
    """Nothing is written over."""
    with pytest.raises(UsageError, match="is there already"):
        import_folder(run.path.parents[1] / "hf", run.path)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ([], "name one model to import"),
        (["hf=a", "gguf=b"], "name one model to import"),
        (["hf=a", "n_heads=2"], "n_heads"),
        (["gguf=a", "download=true"], "download"),
        (["hf=a", "revision=main"], "revision"),
        (["hf=owner/name", "download=true"], "needs revision="),
        (["hf=owner/name"], "must be a folder"),
    ],
)
def test_typed(typed: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What does not go together is refused by name; nothing is fetched that was not asked for."""
    with pytest.raises(SystemExit) as ended:
        main(["import", f"folder={tmp_path / 'run'}", *typed])
    assert ended.value.code == 2 and message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It writes maps for the tab, too; scores and silenced heads stand beside them."""
    write_llama(tmp_path / "hf")
    main(["import", f"hf={tmp_path / 'hf'}", f"folder={tmp_path / 'run'}"])
    main(["evaluate", f"run={tmp_path / 'run'}", "lengths=2"])
    main(["ablate_heads", f"run={tmp_path / 'run'}", "tokens=64"])
    out = capsys.readouterr().out
    assert "llama, 4,664 parameters" in out and "x2" in out and "L00H01" in out
    assert [(record.step, record.layer) for record in read_records(tmp_path / "run")] == [(0, 0)]
    run = RunFolder(tmp_path / "run")
    run.check(run.read_summary())
