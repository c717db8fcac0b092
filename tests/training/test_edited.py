"""An edit of code between two commands that are typed alike: of a rule of the user's, and of attnlab itself."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.training.launch import ROOT, tiny

RULE = """
from attnlab.attention.multi_head import MultiHeadAttention
from my_rules.helpers import FACTOR

class Rule(MultiHeadAttention):
    def merge(self, o, *rest):
        return FACTOR * super().merge(o, *rest)
"""
WORDS = ("trainer.max_steps=6", "trainer.val_every=6", "maps.steps=2", "sample.steps=0", "report.at_end=false")
CHANGED = r"other code \(changed: my_rules.helpers\)"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a variant in a package of two modules, and attnlab's own code to edit."""
    package, yamls = tmp_path / "my_rules", tmp_path / "configs" / "attention"
    package.mkdir()
    yamls.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "rule.py").write_text(RULE)
    (package / "helpers.py").write_text("FACTOR = 1.0\n")
    shipped = (ROOT / "configs" / "attention" / "multi_head.yaml").read_text()
    (yamls / "mine.yaml").write_text(
        shipped.replace("attnlab.attention.multi_head.MultiHeadAttention", "my_rules.rule.Rule")
    )
    for name in ("src", "configs", "train.py"):
        source, copy = ROOT / name, tmp_path / "attnlab_here" / name
        shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
    return tmp_path


def typed(folder: Path, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(map(str, (folder / "attnlab_here" / "src", folder)))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def train(folder: Path, *words: str, variant: str = "mine") -> subprocess.CompletedProcess[str]:
    given = [*tiny(folder), *words]
    last = {word.partition("=")[0]: word for word in [*given, *WORDS, f"attention={variant}"]}  # a later word replaces
    flags = ["--config-dir", "configs", *(["-m"] if "-m" in words else [])]
    settings = [word for word in last.values() if "=" in word]
    return typed(folder, [str(folder / "attnlab_here" / "train.py"), *flags, "allow_targets=[my_rules]", *settings])


def summaries(folder: Path, variant: str = "mine") -> dict[str, Any]:
    """What every finished run of a variant came to, by its folder."""
    found = folder.glob(f"runs/default/{variant}-*/seed_*/summary.json")
    return {str(path.parent.relative_to(folder / "runs" / "default")): json.loads(path.read_text()) for path in found}


@pytest.mark.slow
def test_an_edited_rule_is_run(folder: Path) -> None:
    """The module that a rule imports is edited: the same command names it, trains anew beside, and reads no old run."""
    assert train(folder).returncode == 0
    (old,) = summaries(folder)
    helpers = folder / "my_rules" / "helpers.py"
    helpers.write_text("# a factor\n\nFACTOR = 1.0\n")
    assert "is finished" in train(folder).stdout, "a comment is no edit"
    helpers.write_text("FACTOR = 3.0\n")
    done = train(folder)
    assert done.returncode == 0 and re.search(CHANGED + ": training anew in .*; code=any", done.stderr), done.stderr
    (new,) = set(summaries(folder)) - {old}
    losses = {name: summary["val_loss"] for name, summary in summaries(folder).items()}
    assert losses[old] != losses[new] and old.partition(".")[0] == new.partition(".")[0]
    assert "is finished" in train(folder).stdout
    words = [
        "-c",
        "from attnlab.cli import main; main()",
        "evaluate",
        f"run=runs/default/{old}",
        "lengths=2",
        "allow_targets=my_rules",
    ]
    refused = typed(folder, words)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and re.search(CHANGED, refused.stderr)
    assert "code=any" in refused.stderr
    taken = typed(folder, [*words, "code=any"])
    assert taken.returncode == 0 and re.search(CHANGED, taken.stderr), taken.stderr
    assert typed(folder, [*words[:3], f"run=runs/default/{new}", *words[4:]]).returncode == 0
    helpers.write_text("FACTOR = 1.0\n")
    assert old in train(folder).stdout, "the old code again: its run is taken"
    assert len(summaries(folder)) == 2


@pytest.mark.slow
def test_an_edited_rule_is_run_in_a_sweep(folder: Path) -> None:
    """Sweeps go by the code, too: each run is trained anew beside, or taken with code=any, and no mean mixes them."""
    assert train(folder, "-m", "seed=0,1").returncode == 0
    (folder / "my_rules" / "helpers.py").write_text("FACTOR = 3.0\n")
    taken = train(folder, "-m", "seed=0,1", "code=any")
    assert taken.returncode == 0 and "2 of 2 runs finished" in taken.stdout and len(summaries(folder)) == 2
    done = train(folder, "-m", "seed=0,1,2")
    assert done.returncode == 0, done.stderr
    assert re.search(rf"trained anew: 2 runs, of which each was made by {CHANGED}; code=any", done.stdout)
    codes = [summary["code"] for summary in summaries(folder).values()]
    assert sorted(map(codes.count, set(codes))) == [2, 3]


@pytest.mark.slow
def test_an_edit_of_attnlab_is_run(folder: Path) -> None:
    """An edit of softmax attention makes a new run of multi_head, and none of what does not use it."""
    for variant in ("multi_head", "linear"):
        assert train(folder, variant=variant).returncode == 0
    file = folder / "attnlab_here" / "src" / "attnlab" / "attention" / "softmax.py"
    file.write_text(file.read_text() + "\nEDITED = 1\n")
    done = train(folder, variant="multi_head")
    assert re.search(r"other code \(changed: attnlab.attention.softmax\): training anew", done.stderr), done.stderr
    assert "is finished" in train(folder, variant="linear").stdout
