"""What may be typed next: by the lines that a shell hands over, and through bash itself."""

import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from tests.limits import HANG

import attnlab
import attnlab.__main__
from attnlab.cli import main
from attnlab.cli._arguments import COMMANDS, command
from attnlab.cli._candidates import candidates
from attnlab.config.keys import groups, options


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What `attnlab completion shell=SHELL` prints."""
    main(["completion", f"shell={shell}"])
    return capsys.readouterr().out


def test_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m attnlab` is the command, and says the version that Python knows."""
    monkeypatch.setattr(sys, "argv", ["attnlab", "--version"])
    attnlab.__main__.main()
    assert capsys.readouterr().out == f"attnlab {attnlab.__version__}\n" == f"attnlab {version('attnlab')}\n"


def test_commands_and_keys() -> None:
    """Every command, every key, every choice."""
    assert {*candidates("attnlab ")} == {*COMMANDS, "--help", "--version"}
    assert candidates("attnlab mul") == [] == candidates("attnlab nonsense ")
    for name in COMMANDS:
        if name != "train":
            assert {f"{key}=" for key in command(name).arguments} <= {*candidates(f"attnlab {name} ")}
    assert candidates("python -m attnlab new kind=so") == ["kind=softmax"]
    assert candidates("attnlab report code=") == ["code=any", "code=same"]
    assert candidates('attnlab maps prompt="The goat" limits=') == ["limits=false", "limits=true"]
    assert candidates('attnlab maps prompt="The go') == []


def test_names_of_variants() -> None:
    """The files of the configs are the names, further ones behind a comma."""
    assert candidates("attnlab check attention=gq") == ["attention=gqa"]
    assert candidates("attnlab card attention=gqa,line") == ["attention=gqa,linear"]
    assert "attention=gqa,gqa" not in candidates("python train.py -m attention=gqa,gq")


@pytest.mark.parametrize("program", ["attnlab train", "python train.py", "python3.12 train.py", "./train.py"])
def test_settings_of_training(program: str) -> None:
    """Groups with their options, keys level by level, and the words that a key may hold."""
    first = candidates(f"{program} ")
    assert {f"{group}=" for group in groups()} <= {*first} and {"seed=", "trainer.", "-m"} <= {*first}
    assert "trainer.max_steps=" not in first and "trainer.max_steps=" in candidates(f"{program} seed=1 trainer.m")
    assert candidates(f"{program} attention/mask=win") == [
        f"attention/mask={n}" for n in options("attention/mask") if n[:3] == "win"
    ]
    assert candidates(f"{program} match=f") == ["match=flops"]


def test_options_of_ones_own(tmp_path: Path) -> None:
    """A folder that is typed is looked into, too."""
    (tmp_path / "attention").mkdir()
    (tmp_path / "attention" / "mine_own.yaml").touch()
    assert candidates(f"python train.py --config-dir {tmp_path} attention=mine") == ["attention=mine_own"]


def test_paths(tmp_path: Path) -> None:
    """Files and folders below what is typed; what is hidden is not shown."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "rest.txt").touch()
    (tmp_path / ".run").touch()
    assert candidates(f"attnlab maps run={tmp_path}/r") == [f"run={tmp_path}/rest.txt", f"run={tmp_path}/runs/"]
    assert candidates(f"attnlab maps run={tmp_path}/nowhere/r") == []


@pytest.mark.parametrize("line", ["", "ls ", "python ", "python other.py at", "git commit attnlab "])
def test_other_programs(line: str) -> None:
    """What is none of ours is left alone."""
    assert candidates(line) == []


def test_no_torch() -> None:
    """An answer at every Tab: nothing heavy is imported."""
    code = "import sys; from attnlab.cli import _candidates as c; c.candidates('python train.py trainer.'); "
    code += "c.candidates('attnlab explain at'); print({'torch', 'hydra', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("line", "answers"),
    [
        ("attnlab expl", ["explain "]),
        ("attnlab check attention=gq", ["gqa "]),  # bash ends a word at =
        ("python train.py trainer.max", ["trainer.max_steps="]),
        ("python other.py at", []),
    ],
)
def test_bash(line: str, answers: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The script as bash runs it at a Tab."""
    code = script("bash", capsys) + 'COMP_LINE=$1 COMP_POINT=${#1}; _attnlab; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", code, "-", line], capture_output=True, text=True, timeout=HANG, check=True)
    assert done.stdout.split("\n")[:-1] == (answers or [""])


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_names_this_python(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is asked is this environment's attnlab, and what asks is registered for both programs."""
    text = script(shell, capsys)
    assert f"{sys.executable} -m attnlab.cli._candidates" in text and "ASK" not in text
    assert "attnlab train.py" in text or "attnlab python python3 train.py" in text
