"""What the head of `training/module.py` says of a step: each part is where it says, and they come in this order."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from tests.training.launch import run_here

from attnlab.training import module

LINE = re.compile(r"^    (\w[\w ]*?)  +(\w+(?:/\w+)+)\.py  (\w+)\.(\w+)(?:  .+)?$", re.MULTILINE)
ONCE = ("__iter__", "optimizer")  # called once for a run
SHORT = (
    "trainer.max_steps=3",
    "trainer.val_every=1",
    "trainer.checkpoint_every=1",
    "maps.steps=4",
    "sample.steps=4",
    "model.n_layers=1",
)


def parts(text: str) -> list[tuple[str, str, str]]:
    """The file, class and method of each line."""
    return [(match[2], match[3], match[4]) for match in LINE.finditer(text)]


def owner_of(file: str, owner: str, method: str) -> type:
    """The class of that name in this file, which has this method."""
    name = f"attnlab.{file.replace('/', '.')}"
    kind: type = getattr(import_module(name), owner)
    assert kind.__module__ == name and callable(getattr(kind, method))
    return kind


def test_parts() -> None:
    """Every line of the list is read, and names what exists."""
    text = module.__doc__ or ""
    assert len(parts(text)) == len(re.findall(r"\.py  ", text)) >= 12
    for part in parts(text):
        owner_of(*part)


@pytest.mark.parametrize(
    "line",
    [
        "data/datamodules.py  TrainBatches.__iter__",
        "training/module.py  LanguageModels.forward",
        "training/module.py  LanguageModel.forwards",
        "training/module.py  GPT.forward",  # only imported there
    ],
)
def test_wrong_name(line: str) -> None:
    """A file, class or method that is not there is noticed."""
    (part,) = parts(f"    batch    {line}  the rows")
    with pytest.raises((ImportError, AttributeError, AssertionError)):
        owner_of(*part)


def test_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step at which everything is due calls the parts as they are listed, from one batch's start to the next."""
    listed = [part for part in parts(module.__doc__ or "") if part[2] not in ONCE]
    calls: list[str] = []

    def watch(name: str, usual: Any) -> Any:
        return lambda *args, **kwargs: (calls.append(name), usual(*args, **kwargs))[1]

    for file, owner, method in listed:
        kind = owner_of(file, owner, method)
        monkeypatch.setattr(kind, method, watch(f"{owner}.{method}", getattr(kind, method)))
    run_here(tmp_path, *SHORT)
    names = [f"{owner}.{method}" for _, owner, method in listed]
    _, second, third = (i for i, name in enumerate(calls) if name == names[0])
    assert list(dict.fromkeys(calls[second:third])) == names
