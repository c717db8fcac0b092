"""`attnlab new`: skeletons that train as they are, and that the laws lead on from; what it refuses."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from tests.limits import HANG
from tests.training.launch import environment, folder_of, tiny

from attnlab.cli import main
from attnlab.cli._arguments import parsed
from attnlab.cli._scaffold import KINDS, next_commands, write
from attnlab.cli._slot_skeletons import SLOTS
from attnlab.cli.new import new
from attnlab.errors import UsageError
from attnlab.laws import LAWS

LAYERS = [kind for kind in KINDS if kind not in SLOTS]
FEW = "laws=shape,causality,map,decode"
FIRST = "T=2: changing the tokens from 1 on moves the output at 0"
TOLD = 'Source: A. Writer, "A rule of mine" (2026).'
RUN = {"attnlab": [sys.executable, "-c", "from attnlab.cli import main; main()"], "python": [sys.executable]}


def typed(*words: str) -> int:
    """The exit code of `attnlab WORDS`."""
    try:
        main(words)
    except SystemExit as end:
        return int(str(end.code))
    return 0


def obey(path: Path) -> None:
    """Do what the comments ask: the marked line is replaced by the one above it, and a source is named."""
    lines = path.read_text().splitlines()
    (marked,) = (i for i, line in enumerate(lines) if "MARKED" in line)
    lines[marked + 2] = lines[marked + 1].replace("# ", "")
    (source,) = (i for i, line in enumerate(lines) if "Source: " in line)
    lines[source] = f"    {TOLD}"
    path.write_text("\n".join(lines) + "\n")


def outcomes(table: str) -> dict[str, str]:
    """law -> what came of it, in the order of the table."""
    rows = (line.split() for line in table.splitlines() if line.startswith("  ") and not line.startswith("   "))
    return {row[0]: row[1] for row in rows}


def run_line(line: str, *more: str, at: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as printed, with further words, in a folder; VARIABLE=value may stand before it."""
    words = shlex.split(line)
    given = dict(word.split("=", 1) for word in words if word.startswith("PYTHONPATH="))
    program, *rest = words[len(given) :]
    command, there = [*RUN[program], *rest, *more], {**environment(), **given, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=at, env=there, capture_output=True, text=True, timeout=HANG, check=False)


def begun(at: Path, *words: str) -> list[str]:
    """Type `attnlab new name=mine WORDS` in a folder; returns the commands that it prints."""
    done = run_line(shlex.join(["attnlab", "new", "name=mine", *words]), at=at)
    assert done.returncode == 0, done.stderr
    return [line.strip() for line in done.stdout.splitlines() if line.startswith("  ")]


# From the first word to a run


def test_printed_steps_work(tmp_path: Path) -> None:
    """What is printed leads to a variant that keeps the laws."""
    judge, _ = begun(tmp_path)
    before = run_line(judge, FEW, at=tmp_path)
    assert before.returncode == 1, before.stderr
    assert FIRST in before.stdout and "; begin with causality: " in before.stdout.splitlines()[-1]
    obey(tmp_path / "mine.py")
    after = run_line(judge, FEW, at=tmp_path)
    assert after.returncode == 0, after.stdout + after.stderr
    assert outcomes(after.stdout) == dict.fromkeys(["shape", "causality", "map", "decode"], "kept")


@pytest.mark.slow
@pytest.mark.parametrize("kind", LAYERS)
def test_skeleton_keeps_laws(tmp_path: Path, kind: str) -> None:
    """A skeleton trains and after what the laws ask for keeps them all."""
    here, there = tmp_path / "here", tmp_path / "there of" / "mine"
    here.mkdir()
    judge, train = begun(here, f"folder={there}", f"kind={kind}")
    for asked in (False, True):
        if asked:
            obey(there / "mine.py")
        table = run_line(judge, at=here)
        found = outcomes(table.stdout)
        assert list(found) == list(LAWS) and table.returncode == (not asked), table.stdout + table.stderr
        assert next((law for law in LAWS if found[law] == "broken"), None) == (None if asked else "causality")
        assert found["explains_itself"] == ("kept" if asked else "broken")
        folder = tmp_path / f"runs {asked}"
        folder.mkdir()
        ran = run_line(train, *tiny(folder), at=here)
        assert ran.returncode == 0, ran.stderr
        assert any((folder_of(folder, "mine") / "maps").iterdir())


@pytest.mark.parametrize("kind", LAYERS)
def test_causality_first(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    """The laws name causality first and then hold."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a line is replaced within the second
    name = f"my_{kind}_rule"
    words = [f"attention={name}", f"config_dir={tmp_path / 'configs'}", f"allow_targets={name}"]
    assert typed("new", f"name={name}", f"folder={tmp_path}", f"kind={kind}") == 0
    assert capsys.readouterr().out.startswith(f"wrote {tmp_path / name}.py\nwrote {tmp_path}/configs/attention/{name}.")
    monkeypatch.chdir(tmp_path)
    assert typed("check", f"attention={name}") == 2  # a word is missing
    assert (
        f"to use configs/attention/{name}.yaml, add --config-dir configs (attnlab: config_dir"
        in capsys.readouterr().err
    )
    assert typed("check", *words, "laws=shape,causality,explains_itself") == 1
    table = capsys.readouterr().out
    assert outcomes(table) == {"shape": "kept", "causality": "broken", "explains_itself": "broken"}
    assert FIRST in table and "the docstring names no source" in table
    obey(tmp_path / f"{name}.py")
    monkeypatch.delitem(sys.modules, name)
    assert typed("check", *words, "laws=shape,causality,map,decode,cost,explains_itself") == 0
    assert set(outcomes(capsys.readouterr().out).values()) == {"kept"}
    monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def slot_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """The words that judge the skeleton of a slot."""
    name = f"my_{request.param}_part"
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.chdir(tmp_path)
    assert typed("new", f"name={name}", f"kind={request.param}") == 0
    yield ["check", f"attention={name}", "config_dir=configs", f"allow_targets={name}"]
    sys.modules.pop(name, None)


@pytest.mark.parametrize("slot_words", SLOTS, indirect=True)
def test_slot(slot_words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The skeleton of a slot keeps the laws as it is, and the fused kernel where its slot lets it."""
    assert typed(*slot_words, FEW, "attention.n_heads=2") == 0
    assert set(outcomes(capsys.readouterr().out).values()) == {"kept"}
    assert typed(*slot_words, "laws=fused_equals_explicit") == 0
    fused = "skipped" if slot_words[1] in ("attention=my_normalizer_part", "attention=my_decay_part") else "kept"
    assert outcomes(capsys.readouterr().out) == {"fused_equals_explicit": fused}


@pytest.mark.slow
@pytest.mark.parametrize("slot_words", SLOTS, indirect=True)
def test_slot_whole(slot_words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """None of the laws is broken."""
    assert typed(*slot_words) == 0
    assert "broken" not in outcomes(capsys.readouterr().out).values()


def test_kinds() -> None:
    """What may be typed is what there is."""
    assert get_args(get_type_hints(new)["kind"]) == KINDS


# What is written, and what to type next


def test_words_of_new() -> None:
    """Every word has its key; what was typed without one is refused with it."""
    assert parsed("new", ["name=mine"]) == {"name": "mine", "folder": Path("."), "kind": "softmax"}
    for words, line in (
        ([], "attnlab new needs name=..."),
        (["mine"], "'mine' has no key in attnlab new: write key=value, such as name=mine (keys: name, folder, kind)"),
        (["name=mine", "name=yours"], "name is given twice, as mine and yours"),
        (["--mine"], "'--mine' is not an argument of attnlab new"),
        (
            ["name=mine", "kind=soft"],
            "kind (soft) must be softmax | recurrent | plain | score | normalizer | mask | gate | decay",
        ),
    ):
        with pytest.raises(UsageError) as error:
            parsed("new", words)
        assert str(error.value).startswith(line)


@pytest.mark.parametrize(
    ("name", "class_name"),
    [("mine", "MineAttention"), ("my_own_rule2", "MyOwnRule2Attention"), ("MyAttention", "MyAttention")],
)
def test_a_class_is_named_after_its_variant(tmp_path: Path, name: str, class_name: str) -> None:
    code, settings = write(name, str(tmp_path))
    assert code == tmp_path / f"{name}.py" and f"\nclass {class_name}(MultiHeadAttention):\n" in code.read_text()
    assert settings == tmp_path / "configs" / "attention" / f"{name}.yaml"
    assert f"\n_target_: {name}.{class_name}\n" in settings.read_text()


def test_what_to_type_depends_on_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert next_commands("mine") == [
        "attnlab check attention=mine config_dir=configs allow_targets=mine",
        "attnlab train --config-dir configs attention=mine 'allow_targets=[mine]'",
    ]
    assert next_commands("mine", "a b")[1].startswith("PYTHONPATH='a b' attnlab train --config-dir 'a b/configs' att")


# What is refused


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("my-rule", "name (my-rule) must be a word that Python takes for a module: letters, digits and _"),
        ("2nd", "name (2nd) must be a word that Python takes"),
        ("a.b", "name (a.b) must be a word that Python takes"),
        ("../up", "name (../up) must be a word that Python takes"),
        ("_", "name (_) must be a word that Python takes"),
        ("class", "name (class) must be a word that Python takes"),
        ("null", "name (null) must be a word that Python takes"),
        ("gqa", "name (gqa) is the name of a variant that attnlab has: choose another"),
        ("json", "name (json) is the name of a module that Python finds elsewhere ("),
        ("sys", "name (sys) is the name of a module that Python finds elsewhere (built-in)"),
        ("torch", "name (torch) is the name of a module that Python finds elsewhere ("),
        ("attnlab", "name (attnlab) is the name of a module that Python finds elsewhere ("),
        ("MultiHead", "name (MultiHead) makes a class MultiHeadAttention, which attnlab has: choose another"),
    ],
)
def test_a_name_that_cannot_serve_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, line: str
) -> None:
    assert typed("new", f"name={name}", f"folder={tmp_path}") == 2
    written = capsys.readouterr()
    assert written.out == "" and written.err.startswith(f"error: {line}") and written.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("there", ["mine.py", "configs/attention/mine.yaml", "mine/notes.txt"])
def test_nothing_is_written_over(capsys: pytest.CaptureFixture[str], tmp_path: Path, there: str) -> None:
    (tmp_path / there).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / there).write_text("mine")
    assert typed("new", "name=mine", f"folder={tmp_path}") == 2
    taken = tmp_path / "mine" if there.startswith("mine/") else tmp_path / there
    assert capsys.readouterr().err.startswith(f"error: {taken} is there already, and nothing is written over: ")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / there]
    assert (tmp_path / there).read_text() == "mine"


def test_unwritable_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A folder that cannot be written to is refused."""
    (tmp_path / "file").touch()
    assert typed("new", "name=mine", f"folder={tmp_path / 'file'}") == 2
    line = capsys.readouterr().err
    assert line.startswith(f"error: folder ({tmp_path / 'file'}) cannot be written to: ") and line.count("\n") == 1
    assert os.listdir(tmp_path) == ["file"]
