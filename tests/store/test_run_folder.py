"""What a run's folder says of itself, whole or damaged."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from attnlab.store.damage import Damaged
from attnlab.store.run_folder import EVENTS, RunFolder, lacks_lengths

CODE = {"hash": "a" * 64, "modules": {"m": "1"}}


def test_summary(tmp_path: Path) -> None:
    """It comes back as it was, in one file that ends with a line."""
    folder = RunFolder(tmp_path)
    content = {"status": "finished", "val_loss": 0.1 + 0.2, "pairs": None, "best": math.inf, "nested": {"a": [1, 2]}}
    folder.write_summary(content, {})
    read = folder.read_summary()
    assert {key: read[key] for key in content} == content and read.keys() - content == {"files", "sha256"}
    assert folder.summary.read_text().endswith("}\n")
    assert list(tmp_path.iterdir()) == [folder.summary]


@pytest.mark.parametrize("data", [None, b"", b'{"status": "fini', b"\xff\xfe", b"null", b"[1]", b'"finished"'])
def test_no_summary(data: bytes | None, tmp_path: Path) -> None:
    """A run without a summary, or with a damaged one, has an empty one."""
    folder = RunFolder(tmp_path)
    if data is not None:
        folder.summary.write_bytes(data)
    assert folder.read_summary() == {}
    assert not folder.has_begun()


def test_code_record(tmp_path: Path) -> None:
    """A run that starts anew has one record; one that is continued by other code adds the step from which on."""
    folder, other = RunFolder(tmp_path), {**CODE, "hash": "b" * 64}
    assert folder.read_code() is None
    folder.write_code(CODE, None)
    folder.write_code(CODE, 3)
    assert folder.read_code() == CODE
    folder.write_code(other, 4)
    folder.write_code(other, 5)
    assert folder.read_code() == {**CODE, "later": [{"from_step": 4, **other}]}
    folder.write_code(other, None)
    assert folder.read_code() == other


@pytest.mark.parametrize("text", ["[", "[]", "{}", '{"hash": "a"}', '{"hash": "a", "modules": {"b": 1}}', "\xff"])
def test_damaged_code_record(tmp_path: Path, text: str) -> None:
    folder = RunFolder(tmp_path)
    folder.code.write_text(text, encoding="latin-1")
    with pytest.raises(Damaged, match=folder.code.name) as refusal:
        folder.read_code()
    assert refusal.value.reason in str(refusal.value) and str(tmp_path) not in refusal.value.reason


def test_names(tmp_path: Path) -> None:
    """Files on disk are called as they ever were: runs of earlier versions stay readable."""
    folder = RunFolder(tmp_path / "e" / "multi_head-01234567.89ab" / "seed_3")
    paths = [path for path in vars(folder).values() if isinstance(path, Path) and path != folder.path]
    assert sorted(path.relative_to(folder.path).as_posix() for path in [*paths, folder.checkpoints.file(7)]) == [
        *(".lock", "checkpoints/step_00000007.ckpt", "code.json", "config.yaml", "maps", "maps/best.safetensors"),
        *("maps/head_ablation.json", "maps/last.safetensors", "maps/prompt", "metrics.csv", "summary.json"),
        *("tokenizer.json", "trackers.json"),
    ]
    assert folder.name == "multi_head-01234567.89ab/seed_3" and folder.code_digits == "89ab"


def test_by_other_code(tmp_path: Path) -> None:
    """The same configuration and seed, by other code; brackets in a name are no pattern."""
    names = ("v[1]-01.aa", "v[1]-01.bb", "v[1]-02.aa", "v1-01.aa")
    own, other, *_ = folders = [RunFolder(tmp_path / name / "seed_0") for name in names]
    for folder in folders:
        folder.path.mkdir(parents=True)
    assert own.by_other_code() == [other]


def test_trim_events(tmp_path: Path) -> None:
    """Event files are cut to their digests; those that came later go."""
    folder, sizes = RunFolder(tmp_path), {"1": 5, "2": 3, "3": 9}
    for name, size in sizes.items():
        (tmp_path / f"{EVENTS}{name}").write_bytes(b"x" * size)
    folder.trim_events({f"{EVENTS}1": {"size": 4}, f"{EVENTS}2": {"size": 3}})
    assert [path.stat().st_size for path in folder.event_files()] == [4, 3]


def test_clear(tmp_path: Path) -> None:
    """All goes but the lock; a link is removed and what it leads to is not."""
    folder, elsewhere = RunFolder(tmp_path / "run"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").touch()
    folder.maps.mkdir(parents=True)
    (folder.maps / "link").symlink_to(elsewhere)
    (folder.path / "link").symlink_to(elsewhere)
    folder.checkpoints.write("step_00000001.ckpt", 1, b"data")
    folder.write_summary({"status": "finished"}, {})
    with folder.lock():
        folder.clear()
        assert list(folder.path.iterdir()) == [folder.lock_file]
    assert (elsewhere / "file").exists()


def test_foreign_entries(tmp_path: Path) -> None:
    """Links that lead out are foreign, in the folders within too; those that stay are not."""
    folder = RunFolder(tmp_path / "run")
    folder.maps.mkdir(parents=True)
    (folder.maps / "out").symlink_to(tmp_path)
    (folder.path / "within").symlink_to(folder.maps)
    assert list(folder.foreign_entries()) == [folder.maps / "out"]


@pytest.mark.parametrize("lengths", [None, [], "2", {"2": {}}])
def test_lacks_lengths(lengths: Any) -> None:
    summary = json.loads(json.dumps({"extrapolation": lengths}))
    assert lacks_lengths(summary, [2, 3]) and not lacks_lengths(summary, [])
    assert lacks_lengths(summary, [2]) is (lengths != {"2": {}})
