"""Folders of one training in the order of their steps, and prompts as names."""

from pathlib import Path

import pytest

from attnlab.errors import UsageError
from attnlab.interchange.foreign.checkpoint_order import in_order, sentence_of


def folders(root: Path, *names: str) -> list[Path]:
    for name in names:
        (root / name).mkdir(parents=True)
    return [root / name for name in names]


def test_pattern(tmp_path: Path) -> None:
    """A pattern stands for the folders it fits, in the order of their numbers."""
    folders(tmp_path / "mine", "checkpoint-1000", "checkpoint-90", "checkpoint-500", "logs")
    name, pairs = in_order([tmp_path / "mine" / "checkpoint-*"])
    assert name == "mine" and [step for step, _ in pairs] == [90, 500, 1000]
    assert [folder.name for _, folder in pairs] == ["checkpoint-90", "checkpoint-500", "checkpoint-1000"]


def test_without_steps(tmp_path: Path) -> None:
    """Folders that say nothing are counted as they were named."""
    named = folders(tmp_path, "b", "a")
    assert in_order(named) == ("b", [(0, named[0]), (1, named[1])])
    assert in_order(named[1:]) == ("a", [(0, named[1])])


def test_refused(tmp_path: Path) -> None:
    """Two folders of one step, one that says its step beside one that does not, and a pattern that fits nothing."""
    one, other, plain = folders(tmp_path, "x/checkpoint-5", "y/checkpoint-5", "z")
    with pytest.raises(UsageError, match="are both of step 5, which must be one folder"):
        in_order([one, other])
    with pytest.raises(UsageError, match=r"z\) does not say its step, as a folder named checkpoint-500 does"):
        in_order([one, plain])
    with pytest.raises(UsageError, match="fits no folder"):
        in_order([tmp_path / "none-*"])


def test_sentence() -> None:
    """A prompt is its own name in one line; long ones are cut and still told apart."""
    assert sentence_of(" a\n b ") == "a b" and sentence_of(" ") == "prompt"
    long, other = sentence_of("x" * 99 + "a"), sentence_of("x" * 99 + "b")
    assert long != other and len(long) == len(other) < 60
