"""The command `attnlab`: what can be typed, what is refused, and text as it comes."""

import inspect
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from tests import house
from tests.inspection.event_records import read_heads
from tests.limits import HANG
from tests.training.launch import folder_of, run_here, unseal

import attnlab.generation
import attnlab.runs
from attnlab.cli import main
from attnlab.cli._arguments import COMMANDS, REQUIRED, command, parsed, usage
from attnlab.data.tokenizers import ByteTokenizer
from attnlab.errors import UsageError
from attnlab.runs import load

CONTEXT = 16
NEEDED = ["run=r", "prompt=p"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny finished run."""
    folder = tmp_path_factory.mktemp("done")
    small = ("trainer.max_steps=2", "maps.steps=2", "sample.steps=1", "model.d_model=16", "model.n_layers=1")
    run_here(folder, *small, f"model.context={CONTEXT}")
    return folder_of(folder)


def typed(*words: str) -> int:
    """The exit code of `attnlab WORDS`."""
    try:
        main(words)
    except SystemExit as end:
        return int(str(end.code))
    return 0


# What can be typed


def test_words_become_arguments_of_their_types() -> None:
    words = ["run=a/b=c", 'prompt=it\'s 5, "so"', "tokens=7", "temperature=1", "top_k=null", "top_p=0.5", "seed=3"]
    assert parsed("generate", words) == {
        "run": Path("a/b=c"),
        "prompt": 'it\'s 5, "so"',
        "tokens": 7,
        "temperature": 1.0,
        "top_k": None,
        "top_p": 0.5,
        "seed": 3,
        "samples": 1,
        "allow_targets": (),
        "code": "same",
        "limits": True,
    }


def test_what_is_left_out_is_as_usual() -> None:
    defaults = {key: a.default for key, a in command("generate").arguments.items() if a.default is not REQUIRED}
    assert parsed("generate", NEEDED) == {"run": Path("r"), "prompt": "p", **defaults}


@pytest.mark.parametrize("name", COMMANDS)
def test_default_keeps_rule(name: str) -> None:
    """A default is a value that could be typed, every key says what it means, and none is left out."""
    about = command(name)
    kinds = {parameter.kind for parameter in inspect.signature(about.function).parameters.values()}
    assert kinds <= {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_POSITIONAL}
    assert about.about and about.function.__module__ in (f"attnlab.cli.{name}", f"attnlab.cli.{name}_")
    for key, (rule, kind, default, meaning) in about.arguments.items():
        assert (
            default is REQUIRED or kind is tuple or rule.accepts(str(default) if kind is Path and default else default)
        ), key
        assert meaning


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "attnlab generate needs run=..., prompt=..."),
        (["run=r"], "attnlab generate needs prompt=..."),
        ([*NEEDED, "tempratur=1"], "'tempratur=1' is not an argument of attnlab generate; did you mean 'temperature'?"),
        (
            [*NEEDED, "hello"],
            "'hello' has no key in attnlab generate: write key=value, such as run=hello (keys: run, prompt, ",
        ),
        ([*NEEDED, "--seed=1"], "'--seed=1' is not an argument of attnlab generate"),
        ([*NEEDED, "seed=1", "seed=2"], "seed is given twice, as 1 and 2"),
        ([*NEEDED, "tokens=0"], "tokens (0) must be an integer of at least 1"),
        ([*NEEDED, "tokens=many"], "tokens (many) must be an integer of at least 1"),
        ([*NEEDED, "tokens=1.5"], "tokens (1.5) must be an integer of at least 1"),
        ([*NEEDED, "temperature=-1"], "temperature (-1.0) must be a number of at least 0"),
        ([*NEEDED, "temperature=nan"], "temperature (nan) must be a number of at least 0"),
        ([*NEEDED, "top_k=0"], "top_k (0) must be null or an integer of at least 1"),
        ([*NEEDED, "top_p=0"], "top_p (0.0) must be null or a number above 0, at most 1"),
        ([*NEEDED, "top_p=1.5"], "top_p (1.5) must be null or a number above 0, at most 1"),
        ([*NEEDED, "seed=-1"], "seed (-1) must be an integer of at least 0"),
        (["run=r", "prompt="], "prompt () must be non-empty text"),
        (["run=", "prompt=p"], "run () must be non-empty text"),
    ],
)
def test_what_cannot_be_meant_is_refused(words: list[str], line: str) -> None:
    with pytest.raises(UsageError) as error:
        parsed("generate", words)
    assert str(error.value).startswith(line)


def test_empty_list() -> None:
    """A list may be empty where that is the default, and nowhere else."""
    with pytest.raises(UsageError, match=r"^lengths \(\) must be non-empty text"):
        parsed("evaluate", ["run=r", "lengths="])
    assert parsed("check", ["attention=x", "laws="])["laws"] == ()


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert typed(*words) == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: attnlab COMMAND key=value ...")
    assert all(f"attnlab {name}" in out and command(name).about in out for name in COMMANDS)


def test_help_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert typed("generate", "run=nowhere", "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "usage: attnlab generate key=value ...   (Write a text with a trained model)"
    assert [line.split()[0] for line in lines[2:]] == list(command("generate").arguments)
    assert lines[2].endswith("(non-empty text; required)")
    assert "  tokens         how many tokens to write (an integer of at least 1; default: 200)" in lines
    assert any(line.endswith("(null or a number above 0, at most 1; default: null)") for line in lines)
    assert lines[-2].endswith("(same | any; default: same)") and "'" not in usage("generate")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["generat"],
            "error: attnlab generat is not a command; did you mean 'generate'? (choose from: ablate_heads, capacity",
        ),
        (["--foo"], "error: attnlab --foo is not a command"),
        (["generate", "tokens=0"], "error: tokens (0) must be"),
    ],
)
def test_a_slip_is_answered_in_one_line(capsys: pytest.CaptureFixture[str], words: list[str], line: str) -> None:
    assert typed(*words) == 2
    written = capsys.readouterr()
    assert written.out == "" and written.err.startswith(line) and written.err.count("\n") == 1


@pytest.mark.parametrize(
    "words", ["", "--help", "generate --help", "generate run=r", "generate run=r prompt=p top_p=0"]
)
def test_answers_without_torch(words: str) -> None:
    """Help and slips are answered before torch is imported."""
    tell = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules))"
    start = [sys.executable, "-c", f"{tell}; from attnlab.cli import main; main()", *words.split()]
    done = subprocess.run(start, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "False"


# Of what


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert typed("generate", *words) == 2
    written = capsys.readouterr()
    assert written.out == "" and written.err.startswith("error: ") and written.err.count("\n") == 1
    return written.err.removeprefix("error: ")


def test_a_folder_that_is_no_run_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, done: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere", done / "metrics.csv"):
        assert refusal(capsys, f"run={folder}", "prompt=a").startswith(f"run ({folder}) must be the folder of a run")


def test_several_runs_are_refused_by_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for i in range(8):
        (tmp_path / f"seed_{i}").mkdir()
        (tmp_path / f"seed_{i}" / "config.yaml").write_text("{}")
    line = refusal(capsys, f"run={tmp_path}", "prompt=a")
    assert f"holds 8 runs; name one of them: {tmp_path / 'seed_0'}, " in line and line.endswith("seed_5, ...\n")


def copy(run: Path, to: Path) -> Path:
    """The files of a run that reading it takes."""
    (to / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "tokenizer.json", "checkpoints/manifest.json"):
        (to / name).write_bytes((run / name).read_bytes())
    for file in (run / "checkpoints").glob("*.ckpt"):
        (to / "checkpoints" / file.name).write_bytes(file.read_bytes())
    return to


@pytest.mark.parametrize(
    ("change", "piece"),
    [
        ("a: [", "config.yaml is not YAML ("),
        ("hello", "config.yaml is not the config of a run"),
        ("", "config.yaml is not the config of a run"),
        ({"model": None}, "config.yaml is not the config of a run"),
        ({"model": {"d_model": "many"}}, "config.yaml: model.d_model (many) must be an integer of at least 1"),
        ({"model": {"d_modle": 16}}, "'d_modle'"),
        ({"model": {"n_layers": 2}}, "config.yaml does not belong to "),
        (
            {"attention": {"_target_": "attnlab.attention.multi_head.Nope"}},
            "does not exist in attnlab.attention.multi_he",
        ),
        ({"attention": {"_target_": "os.system"}}, "attention._target_ (os.system) is not allowed"),
        (
            {"attention": {"_target_": "os.system"}, "allow_targets": ["os"]},
            "attention._target_ (os.system) is not allo",
        ),
        ({"attention": {"n_heads": 3}}, "n_heads (3) must divide d_model (16)"),
        ({"streams": {"init": None}}, "config.yaml: streams.init (null) must be an integer"),
    ],
)
def test_a_damaged_config_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, done: Path, change: Any, piece: str
) -> None:
    folder = copy(done, tmp_path / "run")
    if isinstance(change, dict):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        for group, settings in change.items():
            config[group] = {**config[group], **settings} if isinstance(settings, dict) else settings
        change = yaml.safe_dump(config)
    unseal(folder)
    (folder / "config.yaml").write_text(change)
    assert piece in refusal(capsys, f"run={folder}", "prompt=a")


def test_allow_targets_of_a_run_is_ignored(tmp_path: Path, done: Path) -> None:
    """What the file of a run allows does not count."""
    folder = copy(done, tmp_path / "run")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["attention"]["mask"] = {"_target_": "strange.Boom", "_partial_": True}
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "allow_targets": ["strange"]}))
    unseal(folder)
    with pytest.raises(UsageError, match=r"attention\.mask\._target_ \(strange\.Boom\) is not allowed"):
        load(folder)
    with pytest.raises(UsageError, match=r"there is no module strange: install it"):
        load(folder, allow_targets=["strange"])


def test_a_run_without_a_checkpoint_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, done: Path) -> None:
    folder = copy(done, tmp_path / "run")
    for file in (folder / "checkpoints").iterdir():
        file.unlink()
    assert "has no checkpoint yet" in refusal(capsys, f"run={folder}", "prompt=a")


def test_exit_code_of_damage(tmp_path: Path, done: Path) -> None:
    """A damaged checkpoint ends with its own code."""
    folder = copy(done, tmp_path / "run")
    for file in (folder / "checkpoints").glob("*.ckpt"):
        file.write_bytes(file.read_bytes() + b"x")
    assert typed("generate", f"run={folder}", "prompt=a") == 5


def test_a_prompt_that_is_too_long_is_refused(capsys: pytest.CaptureFixture[str], done: Path) -> None:
    line = refusal(capsys, f"run={done}", f"prompt={'a' * (CONTEXT + 1)}")
    assert line == f"prompt ({CONTEXT + 1} tokens) is longer than the model's context ({CONTEXT} tokens)\n"


def test_a_prompt_that_is_no_text_is_refused(capsys: pytest.CaptureFixture[str], done: Path) -> None:
    assert refusal(capsys, f"run={done}", "prompt=a\udcff").startswith("prompt: the text holds U+DCFF at character 1")


# Writing


def test_generate(capsys: pytest.CaptureFixture[str], done: Path) -> None:
    """A run writes after the prompt and the seed decides."""
    texts = []
    for words in (["seed=1"], ["seed=1"], ["seed=2"], ["temperature=0"], ["temperature=0", "seed=2"]):
        assert typed("generate", f"run={done}", "prompt=Line 3", "tokens=40", "top_k=null", *words) == 0
        texts.append(capsys.readouterr().out)
    assert all(text.startswith("Line 3") and text.endswith("\n") and len(text) > len("Line 3\n") for text in texts)
    assert texts[0] == texts[1] != texts[2] and texts[3] == texts[4]


def test_the_only_run_below_a_folder_is_found(capsys: pytest.CaptureFixture[str], done: Path) -> None:
    assert typed("generate", f"run={done.parents[2]}", "prompt=Line", "tokens=1") == 0
    assert capsys.readouterr().out.startswith("Line")


# Silencing heads


def test_ablate_heads(capsys: pytest.CaptureFixture[str], done: Path, tmp_path: Path) -> None:
    """Each head is silenced and its effect kept beside its map."""
    folder = shutil.copytree(done, tmp_path / "run")
    assert typed("ablate_heads", f"run={folder}", "tokens=200") == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"val/loss \d\.\d{4} on [12]\d\d tokens of the validation text, with all heads", lines[0])
    assert [line.split()[0] for line in lines[2:4]] == ["L00H00", "L00H01"]
    kept = json.loads((folder / "maps" / "head_ablation.json").read_text())
    assert f"{kept['loss']:.4f}" == lines[0].split()[1] and kept["step"] == 2
    for line, head in zip(lines[2:4], kept["heads"], strict=True):
        assert line.split()[1:] == [f"{head['zero']:+.4f}", f"{head['mean']:+.4f}"]
    with Image.open(folder / "maps" / "head_ablation_layer_00.png") as picture:
        assert picture.width > 50
    assert read_heads(folder)["head_ablation_zero/L00H01"] == [(2, pytest.approx(kept["heads"][1]["zero"]))]


class Screen:
    """A terminal that remembers what it showed at each moment."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.line = ""

    def write(self, text: str) -> int:
        self.line += text
        return len(text)

    def flush(self) -> None:
        self.shown.append(self.line)

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("data", "at_each_byte", "at_last"),
    [
        ("aé€😀b".encode(), ["a", "a", "aé", "aé", "aé", "aé€", "aé€", "aé€", "aé€", "aé€😀", "aé€😀b"], "aé€😀b"),
        (b"\xffa\xe2b", ["\ufffd", "\ufffda", "\ufffda", "\ufffda\ufffdb"], "\ufffda\ufffdb"),
        ("a€".encode()[:-1], ["a", "a", "a"], "a\ufffd"),
    ],
)
def test_characters_come_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: bytes, at_each_byte: list[str], at_last: str
) -> None:
    """A character of several tokens comes whole."""
    (tmp_path / "config.yaml").touch()

    def bytes_after(model: Any, prompts: torch.Tensor, **settings: Any) -> Iterator[list[int]]:
        assert prompts.tolist() == [[ord(">")]] and settings["top_k"] == 5
        yield from ([byte] for byte in data)

    screen = Screen()
    monkeypatch.setattr(attnlab.runs, "load", lambda run, **_: (None, ByteTokenizer()))
    monkeypatch.setattr(attnlab.generation, "generate_batch", bytes_after)
    monkeypatch.setattr(sys, "stdout", screen)
    assert typed("generate", f"run={tmp_path}", "prompt=>", "top_k=5") == 0
    assert screen.shown[: len(data)] == [f">{text}" for text in at_each_byte]
    assert screen.line == f">{at_last}\n"


def test_packages_are_allowed_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    asked: list[tuple[str, ...]] = []

    def remember(run: str, *, allow_targets: tuple[str, ...], code: str, limits: bool) -> None:
        asked.append(allow_targets)
        raise UsageError("enough")

    monkeypatch.setattr(attnlab.runs, "load", remember)
    for text in ("", "mine", "[mine]", "mine,yours", "[mine, yours]"):
        assert typed("generate", f"run={tmp_path}", "prompt=p", f"allow_targets={text}") == 2
    assert asked == [(), ("mine",), ("mine",), ("mine", "yours"), ("mine", "yours")]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert typed("--version") == 0
    assert capsys.readouterr().out == f"attnlab {version('attnlab')}\n"


def test_train(tmp_path: Path) -> None:
    """`attnlab train` needs no checkout: it composes, refuses and helps as train.py does, from any folder."""
    program = [sys.executable, "-c", "from attnlab.cli import main; main()", "train"]
    for words, code, told in (["attention=gq"], 2, "did you mean 'gqa'"), (["seed=3", "--cfg", "job"], 0, "seed: 3"):
        done = subprocess.run(
            [*program, *words], cwd=tmp_path, capture_output=True, text=True, timeout=HANG, check=False
        )
        assert done.returncode == code and told in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


# What a command imports


def imported_by(name: str) -> set[str]:
    """Every module of attnlab that a command may import, within functions too."""
    modules, waiting, reached = house.modules(), [f"attnlab.cli.{name}"], set[str]()
    while waiting:
        if (module := waiting.pop()) not in reached:
            reached.add(module)
            waiting += house.imports(modules[module], modules.keys())
    return reached


@pytest.mark.parametrize("name", ["check", "explain", "generate", "maps"])
def test_no_lightning(name: str) -> None:
    """What reads and draws needs nothing that trains."""
    reached = imported_by(name)
    assert "attnlab.model" in reached
    assert not [module for module in reached if re.search(r"^\s*(import|from) lightning", source(module), re.MULTILINE)]


def source(module: str) -> str:
    path = house.SRC / module.replace(".", "/")
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()


STARTED = """
import sys
before = len(sys.modules)
from attnlab.cli import main
try:
    main()
finally:
    heavy = [name for name in ("torch", "hydra", "numpy", "omegaconf") if name in sys.modules]
    print(len(sys.modules) - before, *heavy)
"""


@pytest.mark.parametrize(
    ("words", "most", "heavy"),
    [
        ("--help", 170, []),
        ("explain --help", 170, []),
        ("generate run=r tokens=0", 170, []),
        ("report --foo", 170, []),
        ("generate run=r prompt=p", 290, []),
        ("maps run=r prompt=p", 290, []),
        ("explain run=r prompt=p", 290, []),
        ("evaluate run=r", 290, []),
        ("ablate_heads run=r", 290, []),
        ("export run=r folder=f", 290, []),
        ("explain attention=gqaa", 420, ["hydra", "omegaconf"]),
        ("check attention=gqa attention.n_head=2", 420, ["hydra", "omegaconf"]),
        ("look run=r", 170, []),
        ("completion shell=zsh", 170, []),
        ("new name=x kind=recurent", 290, []),
        ("capacity attention=gqaa", 420, ["hydra", "omegaconf"]),
        ("tune attentoin=gqa", 420, ["hydra", "omegaconf"]),
        ("replicate claim=nope", 170, []),
        ("report experiment=nowhere", 170, []),
        ("final_test experiment=nowhere", 420, ["numpy"]),
        ("card attention=gqaa", 420, ["hydra", "omegaconf"]),
    ],
)
def test_start_up(words: str, most: int, heavy: list[str]) -> None:
    """Help and slips are answered after few imports, and never after torch's."""
    start = [sys.executable, "-c", STARTED, *words.split()]
    done = subprocess.run(start, capture_output=True, text=True, timeout=HANG, check=False)
    count, *names = done.stdout.splitlines()[-1].split()
    assert int(count) <= most and set(names) <= set(heavy), done.stdout + done.stderr
