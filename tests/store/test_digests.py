"""What a finished run left is known by its digests: a change of one byte is named, and an older run is not checked."""

import json
from pathlib import Path
from typing import Any

import pytest

from attnlab.store.damage import Damaged
from attnlab.store.digests import check_files, digest, digests_in
from attnlab.store.names import CONFIG, LAST_MAPS, METRICS, SUMMARY
from attnlab.store.run_folder import WHOLE, RunFolder

ROWS = b"step,metric,value\n4,val/loss,3.5\n"


def damage(folder: Path, summary: dict[str, Any]) -> str | None:
    """What the folder of a run finds wrong by a summary."""
    try:
        RunFolder(folder).check(summary)
    except Damaged as damage:
        return damage.reason
    return None


def run(folder: Path) -> Path:
    """The files of a run, with a summary of all kinds of values."""
    (folder / LAST_MAPS).parent.mkdir()
    for name in WHOLE:
        (folder / name).write_bytes(f"{name}: 1\n".encode())
    (folder / METRICS).write_bytes(ROWS)
    content: dict[str, Any] = {
        "status": "finished",
        "emergence_steps": {3: (1, float("nan"))},
        "best": None,
        "loss": 0.1 + 0.2,
    }
    RunFolder(folder).write_summary(content, {METRICS: digest(ROWS), "events.1": {"size": 3}})
    return folder


def test_nothing_changed(tmp_path: Path) -> None:
    summary = RunFolder(run(tmp_path)).read_summary()
    assert summary["emergence_steps"]["3"][0] == 1 and damage(tmp_path, summary) is None
    assert set(digests_in(summary)) == {*WHOLE, METRICS, "events.1"}
    with (tmp_path / METRICS).open("ab") as file:  # by a command that was killed
        file.write(b"4,val/loss,9\n")
    assert damage(tmp_path, summary) is None
    (tmp_path / SUMMARY).write_text(json.dumps(json.loads((tmp_path / SUMMARY).read_text())))  # another layout
    assert RunFolder(tmp_path).read_summary()["status"] == "finished"


@pytest.mark.parametrize("name", [CONFIG, "code.json", METRICS])
def test_changed_byte(tmp_path: Path, name: str) -> None:
    path = run(tmp_path) / name
    data = path.read_bytes()
    path.write_bytes(data[:3] + bytes([data[3] ^ 1]) + data[4:])
    told = f"{name} was changed after it was written (its SHA-256 differs)"
    assert damage(tmp_path, RunFolder(tmp_path).read_summary()) == told
    path.write_bytes(data[:-1])
    assert f"has {len(data) - 1} bytes instead of {len(data)}" in str(
        damage(tmp_path, RunFolder(tmp_path).read_summary())
    )
    path.unlink()
    assert damage(tmp_path, RunFolder(tmp_path).read_summary()) == f"{name} cannot be read (No such file or directory)"


def test_changed_summary(tmp_path: Path) -> None:
    """Whatever it says is no longer believed; of the digests of all files only those of maps are looked at later."""
    content = json.loads((run(tmp_path) / SUMMARY).read_text())
    for key in set(content) - {"sha256"}:
        changed = {**content, key: "x"}
        assert f"{SUMMARY} was changed" in str(damage(tmp_path, changed))
        (tmp_path / SUMMARY).write_text(json.dumps(changed))
        assert RunFolder(tmp_path).read_summary() == {}
    (tmp_path / LAST_MAPS).write_bytes(b"x")
    assert damage(tmp_path, content) is None
    with pytest.raises(Damaged, match=LAST_MAPS):
        check_files(tmp_path, content["files"], LAST_MAPS)


def test_older_runs(tmp_path: Path) -> None:
    """Without digests nothing is checked; those of the rows alone were the first there were."""
    assert damage(tmp_path, {"status": "finished"}) is None
    (tmp_path / METRICS).write_bytes(ROWS)
    assert damage(tmp_path, {"files": {METRICS: digest(ROWS)}}) is None
    assert "was changed" in str(damage(tmp_path, {"files": {METRICS: {**digest(ROWS), "sha256": "0"}}}))
    for odd in ({}, [], 3, {METRICS: 3}, {METRICS: {"size": float("inf")}}):
        assert damage(tmp_path, {"files": odd}) == f"{SUMMARY} has no digest of {METRICS}"


def test_scores_added_later(tmp_path: Path) -> None:
    """Digests that are there stay: what was changed meanwhile is not taken for what was written."""
    digests = digests_in(RunFolder(run(tmp_path)).read_summary())
    (tmp_path / CONFIG).write_text("b: 2\n")
    RunFolder(tmp_path).write_summary(RunFolder(tmp_path).read_summary(), digests)
    assert str(damage(tmp_path, RunFolder(tmp_path).read_summary())).startswith(CONFIG)
