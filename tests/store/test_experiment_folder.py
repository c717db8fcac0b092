"""What an experiment's folder holds beside its runs: the manifest with its looks, and the preregistration."""

import errno
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from attnlab.errors import AttnlabError, UsageError
from attnlab.store.experiment_folder import ExperimentFolder
from attnlab.store.manifest import Manifest
from attnlab.store.preregistration import Preregistration, read, write
from attnlab.store.status import Status

PROMISED = Preregistration("a is worse", "b", "val/loss", 0.05, 0.05, [0, 1], ["a"], ["a-1.2/seed_0"])


def entry(seed: int, status: Status = Status.PLANNED) -> dict[str, Any]:
    return {"folder": f"a-1.2/seed_{seed}", "overrides": [], "status": status}


def test_names(tmp_path: Path) -> None:
    """Files on disk are called as they ever were: experiments of earlier versions stay readable."""
    folder = ExperimentFolder(tmp_path)
    paths = [*(path for path in vars(folder).values() if isinstance(path, Path)), folder.manifest.path]
    assert sorted(path.relative_to(tmp_path).as_posix() for path in [*paths, folder.log("a-1.2", 3)]) == [
        *(".", "attention_dtype.json", "learning_rates.svg", "logs", "logs/a-1.2-seed_3.log", "manifest.json"),
        *("preregistration.json", "report", "resolved.json", "tuned.yaml"),
    ]
    assert folder.run("a-1.2", 3).path == tmp_path / "a-1.2" / "seed_3"


def test_resolve_once(tmp_path: Path) -> None:
    """Whoever comes first decides, each setting on its own; what an earlier version measured counts as decided."""
    folder = ExperimentFolder(tmp_path / "e")
    assert folder.read_resolved() == {} and not folder.path.exists()
    with ThreadPoolExecutor(4) as pool:
        records = list(pool.map(lambda i: folder.resolve_once("trainer.precision", lambda: {"value": i}), range(8)))
    assert len({record["value"] for record in records}) == 1
    assert folder.resolve_once("trainer.compile", lambda: {"value": True}) == {"value": True}
    folder.attention_dtype.write_text('{"attention_dtype": "bf16", "threads": 2}')
    assert folder.resolve_once("trainer.attention_dtype", dict)["value"] == "bf16"
    folder.attention_dtype.unlink()
    assert [record["value"] for record in folder.read_resolved().values()] == [records[0]["value"], True, "bf16"]
    for damage in ("", "[]", "[" * 100_000):
        folder.resolved.write_text(damage)
        with pytest.raises(ValueError, match=r"."):
            folder.resolve_once("trainer.precision", dict)


def test_runs(tmp_path: Path) -> None:
    """In the order of their names, whatever else lies there."""
    folder = ExperimentFolder(tmp_path)
    for name in ("b/seed_0", "a/seed_1", "a/seed_0", "a/other", "logs"):
        (tmp_path / name).mkdir(parents=True)
    assert [run.name for run in folder.runs()] == ["a/seed_0", "a/seed_1", "b/seed_0"]


def test_manifest(tmp_path: Path) -> None:
    """What other commands have planned stays, and a status is kept as its word; what is no entry is dropped."""
    manifest = Manifest(tmp_path / "e" / "manifest.json")
    assert manifest.read() == {"experiment": "e", "runs": []}
    manifest.plan([entry(0), entry(1)], {"command": "one"})
    manifest.plan([entry(2)], {"command": "two"})
    manifest.note(entry(1, Status.FAILED))
    content = manifest.read()
    assert content["command"] == "two"
    assert [run["status"] for run in content["runs"]] == ["planned", "failed", "planned"]
    assert '"status": "failed"' in manifest.path.read_text()
    manifest.path.write_text(manifest.path.read_text().replace('"overrides": []', '"overrides": 3', 1))
    assert len(manifest.read()["runs"]) == 2


CHANGES: dict[str, Callable[[Manifest], Any]] = {
    "plan": lambda manifest: manifest.plan([entry(9)], {}),
    "look": lambda manifest: manifest.count_look({"set": "z"}),
    "metric": lambda manifest: manifest.count_metric("val/loss"),
    "touch": lambda manifest: manifest.count_touch(["r/seed_0"], "now"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_unread_is_not_written_over(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest that the disk does not give to read once loses nothing, whatever was to be added to it."""
    manifest = Manifest(tmp_path / "e" / "manifest.json")
    manifest.plan([entry(0), entry(1)], {})
    before = manifest.path.read_bytes()

    def fails(path: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("attnlab.store.manifest.read_file", fails)
        with pytest.raises(AttnlabError):
            CHANGES[change](manifest)
    assert manifest.path.read_bytes() == before
    CHANGES[change](manifest)
    assert len(manifest.read()["runs"]) == 2 + (change == "plan")


def test_looks(tmp_path: Path) -> None:
    """A look at the same runs counts once, planning keeps it, and a damaged manifest is not written over."""
    manifest = ExperimentFolder(tmp_path).manifest
    for runs in ("x", "y", "x"):
        manifest.count_look({"set": runs})
    manifest.plan([entry(0)], {})
    assert [look["set"] for look in manifest.looks()] == ["x", "y"]
    manifest.path.write_text("{")
    assert manifest.looks() == []
    with pytest.raises(UsageError, match="is damaged"):
        manifest.count_look({"set": "z"})


def test_preregistration(tmp_path: Path) -> None:
    """It comes back with its hash; the same again changes nothing, another one is refused, as is one after a run."""
    assert read(tmp_path) is None
    digest = write(tmp_path, PROMISED)
    check = read(tmp_path)
    assert check is not None and check.preregistration == PROMISED
    assert (check.sha256, check.deviations) == (digest, [])
    assert write(tmp_path, PROMISED) == digest
    with pytest.raises(UsageError, match=r"margin: 0.05, not 0.1"):
        write(tmp_path, PROMISED._replace(margin=0.1))
    run = ExperimentFolder(tmp_path / "begun").run("a-1.2", 0)
    run.write_config("a: 1\n")
    with pytest.raises(UsageError, match=f"{run} has started already"):
        write(tmp_path / "begun", PROMISED)
