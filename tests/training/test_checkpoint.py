"""A checkpoint is what was written, or it is not used."""

import errno
import hashlib
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from attnlab.errors import FileFailure, NoUsableCheckpoint, UsageError
from attnlab.store.checkpoints import MANIFEST, CheckpointFolder
from attnlab.store.damage import Damaged
from attnlab.training.checkpoint import load_checkpoint
from attnlab.training.checkpoint_io import VerifiedCheckpointIO

OLD, NEW = "step_00000005.ckpt", "step_00000010.ckpt"


def saved(content: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def content(step: int) -> dict[str, Any]:
    values = torch.arange(6.0) * step
    weights = {"w": values, "half": values.bfloat16()}
    return {"global_step": step, "state_dict": weights, "fingerprint": {}, "list": [1, None, ("a", 2.5)]}


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    """Two whole checkpoints, of the steps 5 and 10."""
    both = CheckpointFolder(tmp_path / "checkpoints")
    both.write(OLD, 5, saved(content(5)))
    both.write(NEW, 10, saved(content(10)))
    return both


def names(folder: CheckpointFolder) -> list[str]:
    return sorted(path.name for path in folder.path.iterdir())


# Writing


def test_manifest(folder: CheckpointFolder) -> None:
    """The manifest says step size and hash of what is there."""
    manifest = json.loads((folder.path / MANIFEST).read_text())
    assert manifest == {"files": folder.listed()}
    assert {name: entry["step"] for name, entry in folder.listed().items()} == {OLD: 5, NEW: 10}
    for name, entry in folder.listed().items():
        data = (folder.path / name).read_bytes()
        assert (entry["size"], entry["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


def test_only_the_newest_two_are_kept(folder: CheckpointFolder) -> None:
    for step in (15, 20, 25):
        folder.write(f"step_{step:08d}.ckpt", step, saved(content(step)))
        assert len(list(folder.path.glob("*.ckpt"))) == 2
    assert names(folder) == [MANIFEST, "step_00000020.ckpt", "step_00000025.ckpt"]
    assert set(folder.listed()) == {"step_00000020.ckpt", "step_00000025.ckpt"}


def test_newest_means_the_step_and_not_the_name(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    for step in (9, 10, 11):
        folder.write(f"{step}.ckpt", step, b"x" * step)
    assert folder.newest() == (tmp_path / "11.ckpt", [])
    assert names(folder) == ["10.ckpt", "11.ckpt", MANIFEST]


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    path, disk = tmp_path / "checkpoints" / NEW, VerifiedCheckpointIO()
    disk.save_checkpoint(content(10), path)
    for found in (disk.load_checkpoint(path), load_checkpoint(path), load_checkpoint(str(path))):
        assert found.keys() == content(10).keys()
        assert (found["global_step"], found["list"]) == (10, [1, None, ("a", 2.5)])
        for name, tensor in content(10)["state_dict"].items():
            assert found["state_dict"][name].dtype == tensor.dtype
            assert torch.equal(found["state_dict"][name], tensor)
    disk.remove_checkpoint(path)
    disk.remove_checkpoint(path)
    assert not path.exists()


def test_failed_write(folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails leaves the others as they were."""

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    before = {name: (folder.path / name).read_bytes() for name in names(folder)}
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(FileFailure, match=r"step_00000015\.ckpt \(No space left on device\); paths\.runs says"):
            folder.write("step_00000015.ckpt", 15, saved(content(15)))
    assert {name: (folder.path / name).read_bytes() for name in names(folder)} == before
    assert folder.newest() == (folder.path / NEW, [])


# Damage


def flip(data: bytes, place: int, bit: int) -> bytes:
    """The bytes with one bit turned."""
    changed = bytearray(data)
    changed[place] ^= 1 << bit
    return bytes(changed)


def fell_back(folder: CheckpointFolder, words: str) -> bool:
    """Whether the newest checkpoint is refused with these words and the one before it used."""
    with pytest.raises(Damaged, match=rf": {NEW} .*{words}"):
        load_checkpoint(folder.path / NEW)
    path, (problem,) = folder.newest()
    return path == folder.path / OLD and words in problem and problem.startswith(NEW)


def test_a_bit_flipped_anywhere_is_noticed(folder: CheckpointFolder) -> None:
    chance, path = random.Random(0), folder.path / NEW
    whole = path.read_bytes()
    for _ in range(60):
        path.write_bytes(flip(whole, chance.randrange(len(whole)), chance.randrange(8)))
        assert fell_back(folder, "was changed after it was written")
    path.write_bytes(whole)
    assert folder.newest() == (path, [])


def test_a_file_cut_off_anywhere_is_noticed(folder: CheckpointFolder) -> None:
    chance, path = random.Random(1), folder.path / NEW
    whole = path.read_bytes()
    for length in [0, 1, len(whole) - 1, *(chance.randrange(len(whole)) for _ in range(20))]:
        path.write_bytes(whole[:length])
        assert fell_back(folder, f"has {length} bytes instead of {len(whole)}")
    path.write_bytes(whole + b"\0")
    assert fell_back(folder, f"has {len(whole) + 1} bytes instead of {len(whole)}")


def test_a_file_in_anothers_place_is_noticed(folder: CheckpointFolder) -> None:
    (folder.path / NEW).write_bytes((folder.path / OLD).read_bytes())
    assert fell_back(folder, "")


def test_a_missing_file_is_noticed(folder: CheckpointFolder) -> None:
    (folder.path / NEW).unlink()
    assert fell_back(folder, "cannot be read")
    assert folder.newest()[1] == [f"{NEW} cannot be read (No such file or directory)"]


def test_a_folder_in_a_files_place_is_noticed(folder: CheckpointFolder) -> None:
    (folder.path / NEW).unlink()
    (folder.path / NEW).mkdir()
    assert fell_back(folder, "cannot be read")


def swap(folder: CheckpointFolder) -> None:
    old, new = (folder.path / name for name in (OLD, NEW))
    (old_bytes, new_bytes) = old.read_bytes(), new.read_bytes()
    old.write_bytes(new_bytes)
    new.write_bytes(old_bytes)


def damage_both(folder: CheckpointFolder) -> None:
    for name in (OLD, NEW):
        path = folder.path / name
        path.write_bytes(flip(path.read_bytes(), 100, 0))


def remove_both(folder: CheckpointFolder) -> None:
    for name in (OLD, NEW):
        (folder.path / name).unlink()


@pytest.mark.parametrize("harm", [swap, damage_both, remove_both])
def test_all_are_damaged(harm: Callable[[CheckpointFolder], None], folder: CheckpointFolder) -> None:
    """Where all are damaged none is used and each is named."""
    harm(folder)
    with pytest.raises(NoUsableCheckpoint, match=f"no usable checkpoint: {NEW}.*; {OLD}.*overwrite=true") as refusal:
        folder.newest()
    assert refusal.value.exit_code == 5 and "\n" not in str(refusal.value)


@pytest.mark.parametrize("harm", [lambda path: path.write_bytes(b"{"), Path.unlink], ids=["damaged", "gone"])
def test_without_a_manifest_nothing_can_be_checked(harm: Callable[[Path], Any], folder: CheckpointFolder) -> None:
    harm(folder.path / MANIFEST)
    with pytest.raises(NoUsableCheckpoint, match=rf"manifest\.json is damaged or gone, so {OLD}, {NEW} cannot be"):
        folder.newest()
    with pytest.raises(Damaged, match=f": {NEW} is not listed in {MANIFEST}$"):
        load_checkpoint(folder.path / NEW)


def test_damaged_manifest(
    folder: CheckpointFolder,
) -> None:
    """A damaged manifest never leads to anything but a whole checkpoint or a refusal."""
    manifest = folder.path / MANIFEST
    whole = manifest.read_bytes()
    written = {name: (folder.path / name).read_bytes() for name in (OLD, NEW)}
    chance, refused = random.Random(2), 0
    for place in range(len(whole)):
        manifest.write_bytes(flip(whole, place, chance.randrange(8)))
        try:
            path, _ = folder.newest()
        except NoUsableCheckpoint:
            refused += 1
        else:
            assert path is not None, place
            assert folder.read(path.name) == written[path.name], place
    assert 0 < refused < len(whole)


@pytest.mark.parametrize(
    "text", ["", "null", "[]", '{"files": null}', '{"files": [1]}', '{"files": {"a.ckpt": 1}}', '{"files": {"a": {}}}']
)
def test_manifest_of_something_else(text: str, folder: CheckpointFolder) -> None:
    """A manifest that says something else lists nothing."""
    (folder.path / MANIFEST).write_text(text)
    assert folder.listed() == {}
    with pytest.raises(NoUsableCheckpoint):
        folder.newest()


# What a run that was killed leaves behind


def test_nothing_to_continue(tmp_path: Path) -> None:
    """Where nothing was written there is nothing to continue."""
    assert CheckpointFolder(tmp_path / "nowhere").newest() == (None, [])
    assert CheckpointFolder(tmp_path).newest() == (None, [])


def test_killed_before_first_manifest(tmp_path: Path) -> None:
    """A run killed before its first manifest has no checkpoint."""
    (tmp_path / OLD).write_bytes(saved(content(5)))
    folder = CheckpointFolder(tmp_path)
    assert folder.newest() == (None, [])
    folder.write(NEW, 10, saved(content(10)))
    assert folder.newest() == (tmp_path / NEW, []) and names(folder) == [MANIFEST, NEW]


def test_killed_before_later_manifest(folder: CheckpointFolder) -> None:
    """A run killed before a later manifest has the checkpoint before it."""
    unlisted = folder.path / "step_00000015.ckpt"
    unlisted.write_bytes(saved(content(15)))
    assert folder.newest() == (folder.path / NEW, [])
    with pytest.raises(Damaged, match="is not listed"):
        load_checkpoint(unlisted)


def test_a_temporary_file_is_no_checkpoint(tmp_path: Path) -> None:
    for name in (OLD, NEW):
        (tmp_path / f".{name}.4711.0a1b2c3d").write_bytes(b"half of it")
    (tmp_path / f".{MANIFEST}.4711.0a1b2c3d").write_bytes(b"{")
    folder = CheckpointFolder(tmp_path)
    assert folder.newest() == (None, [])
    folder.write(OLD, 5, saved(content(5)))
    assert folder.newest() == (tmp_path / OLD, [])
    assert set(folder.listed()) == {OLD}


# Trust


class Runs:
    """Does something when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def test_checkpoint_with_code(tmp_path: Path) -> None:
    """A checkpoint that would run code is refused although its hash is right."""
    marker = tmp_path / "it ran"
    data = saved({"global_step": 5, "state_dict": Runs(marker)})
    torch.load(io.BytesIO(data), weights_only=False)
    assert marker.exists(), "the pickle is a working one"
    marker.unlink()
    CheckpointFolder(tmp_path).write(OLD, 5, data)
    with pytest.raises(UsageError, match="holds more than numbers and text"):
        load_checkpoint(tmp_path / OLD)
    with pytest.raises(UsageError, match="holds more than numbers and text"):
        VerifiedCheckpointIO().load_checkpoint(tmp_path / OLD, weights_only=False)
    assert not marker.exists()


def test_unreadable_manifest(folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest that the disk does not give now is not an empty one: what it lists stays."""

    def full(path: Path) -> bytes:
        raise OSError(errno.ENOSPC, "full", str(path))

    monkeypatch.setattr("attnlab.store.checkpoints.read_file", full)
    with pytest.raises(OSError, match="full"):
        folder.write("step_00000015.ckpt", 15, saved(content(15)))
    monkeypatch.undo()
    assert set(folder.listed()) == {OLD, NEW} and (folder.path / OLD).exists()
