"""What stands below "Reproducibility", copied into an empty shell, repeats it."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.analysis.folders import write_arm
from tests.limits import HANG

from attnlab.analysis.analyse import analyse
from attnlab.analysis.reproducibility import reproducibility
from attnlab.machine.command_line import in_shell

TRAIN = Path(__file__).parents[2] / "train.py"
EMPTY = {"PATH": "/usr/bin:/bin"}  # what a shell without anybody's settings knows


def block(report: Path) -> str:
    """The first block of commands of a page."""
    text = report.read_text().partition("## Reproducibility")[2]
    found = re.search(r"```text\n(.*?)\n```", text, flags=re.S)
    assert found is not None
    return found[1]


def test_command_in_shell() -> None:
    """Every word is quoted, flags for Hydra stay with a single run, and -m does not."""
    words = ["train.py", "-m", "--config-dir", "my rules", "-cn=train", "attention=a,b", "report.hypothesis='it''s'"]
    command = {"argv": words, "folder": "/f", "python": "/p y/python", "pythonpath": "a b"}
    assert shlex.split(in_shell(command)) == ["PYTHONPATH=a b", "/p y/python", *words]
    single = shlex.split(in_shell(command, ["attention=a", "seed=1"]))
    assert single[2:] == ["train.py", "--config-dir", "my rules", "-cn=train", "attention=a", "seed=1"]


def test_all_sweeps_are_listed(tmp_path: Path) -> None:
    """Each command that made runs stands in the folder where it was typed; a damaged one costs no report."""
    write_arm(tmp_path, "multi_head", [2.0, 2.1, 1.9])
    typed = {"argv": ["train.py", "-m"], "folder": "/f", "python": "/bin/python", "pythonpath": ""}
    commands = [typed, {**typed, "argv": ["train.py", "-m", "x=1"]}, {**typed, "argv": 5}, 7]
    runs = [
        {"folder": run.relative_to(tmp_path).as_posix(), "variant": "multi_head", "overrides": [f"seed={seed}"]}
        for seed, run in enumerate(sorted(tmp_path.glob("*/seed_*")))
    ]
    (tmp_path / "manifest.json").write_text(json.dumps({"commands": commands, "runs": runs}))
    text = str(reproducibility(analyse(tmp_path))[1]).encode().decode("unicode_escape")
    assert "cd /f\n/bin/python train.py -m\n/bin/python train.py -m x=1\n" in text
    assert str(reproducibility(analyse(tmp_path))[3]).count("/bin/python train.py seed=") == 3


@pytest.mark.slow
def test_repeated_in_an_empty_shell(tmp_path: Path) -> None:
    """A sweep over a rule of one's own, in a package beside its YAML, with words that a shell would take apart."""
    home = tmp_path / "my work"
    (home / "rules" / "attention").mkdir(parents=True)
    (home / "mine.py").write_text(
        "from attnlab.attention.multi_head import MultiHeadAttention\n\n\nclass Mine(MultiHeadAttention):\n    pass\n"
    )
    (home / "rules" / "attention" / "mine.yaml").write_text(
        "defaults:\n  - multi_head\n  - _self_\n_target_: mine.Mine\n"
    )
    words = ["-m", "--config-dir", "rules", "allow_targets=[mine]", "attention=multi_head,mine", "seed=0,1"]
    words += ["model=tiny", "model.n_layers=1", "trainer.max_steps=4", "sample.steps=0", "experiment_name=e"]
    words += ["report.hypothesis='no \"difference\" & $HOME'"]
    for command in (["git", "init", "-q"], ["git", "add", "-A"]):
        subprocess.run(command, cwd=home, check=True, capture_output=True)
    who = ["git", "-c", "user.name=n", "-c", "user.email=e@e", "commit", "-qm", "rules"]
    subprocess.run(who, cwd=home, check=True, capture_output=True)
    done = subprocess.run(
        [sys.executable, str(TRAIN), *words], cwd=home, capture_output=True, text=True, timeout=HANG, check=False
    )
    assert done.returncode == 0, done.stderr
    experiment = home / "runs" / "e"
    page = experiment / "report" / "report.md"
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=home, capture_output=True, text=True, check=True).stdout
    assert f"commit {head.strip()}, no uncommitted changes" in page.read_text().replace("\\_", "_")
    losses = {path.relative_to(experiment): json.loads(path.read_text())["val_loss"] for path in summaries(experiment)}
    lines = block(page)
    shutil.rmtree(home / "runs")
    again = subprocess.run(
        ["/bin/sh", "-e", "-c", lines], cwd="/", env=EMPTY, capture_output=True, text=True, timeout=HANG, check=False
    )
    assert again.returncode == 0, again.stderr
    assert len(losses) == 4
    assert losses == {
        path.relative_to(experiment): json.loads(path.read_text())["val_loss"] for path in summaries(experiment)
    }


def summaries(experiment: Path) -> list[Path]:
    """Those of all runs."""
    return list(experiment.glob("*/seed_*/summary.json"))
