"""`attnlab check`: the laws of one variant as a table, with an exit code, and what it refuses."""

import io
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from attnlab import laws
from attnlab.cli import main
from attnlab.cli._arguments import parsed
from attnlab.cli._scaffold import write
from attnlab.errors import UsageError
from attnlab.laws import LAWS, Subject, Verdict

YAML = "_target_: {package}.Ahead\n_partial_: true\nn_heads: {heads}\nposition: ${{position.inside}}\n"
OWN = """
from attnlab.attention.multi_head import MultiHeadAttention
class Ahead(MultiHeadAttention):
    pass
class Crashes(MultiHeadAttention):
    def __init__(self, d_model, **settings):
        super().__init__(d_model, **settings)
        self.nothing.at_all
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """A folder with a variant called `rule` that reads later tokens, and others in a package `owned`."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("rule", "owned"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    write("rule", str(tmp_path), "plain")
    (tmp_path / "owned.py").write_text(OWN)
    folder = tmp_path / "configs" / "attention"
    (folder / "five.yaml").write_text(YAML.format(package="owned", heads=5))
    (folder / "sixteen.yaml").write_text(YAML.format(package="owned", heads=16))
    (folder / "crashes.yaml").write_text(YAML.format(package="owned", heads=4).replace("Ahead", "Crashes"))
    (folder / "torn.yaml").write_text("a: [")
    (folder / "gqa.yaml").write_text(YAML.format(package="owned", heads=4))
    (tmp_path / "a,b").mkdir()
    return tmp_path


def typed(*words: str) -> int:
    """The exit code of `attnlab check WORDS`."""
    try:
        main(["check", *words])
    except SystemExit as end:
        return int(str(end.code))
    return 0


def of(mine: Path, name: str) -> list[str]:
    """The words that choose a variant of the folder."""
    return [f"attention={name}", f"config_dir={mine / 'configs'}", "allow_targets=rule,owned"]


# What is shown


def test_laws_that_are_kept_end_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert typed("attention=multi_head", "laws=shape,causality") == 0
    first, shape, causality, last = capsys.readouterr().out.splitlines()
    assert first == "attention=multi_head (attnlab.attention.multi_head.MultiHeadAttention), layers of d_model=24"
    assert re.fullmatch(r"  shape +kept +\d+\.\d s", shape) and re.fullmatch(r"  causality +kept +\d+\.\d s", causality)
    assert re.fullmatch(r"2 kept, 0 broken, 0 skipped in \d+\.\d s", last)


def test_broken_law(capsys: pytest.CaptureFixture[str], mine: Path) -> None:
    """A law that is broken ends with 1 and shows the smallest case."""
    assert typed(*of(mine, "rule"), "laws=[fused_equals_explicit, shape, causality, map]") == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:-1] if not line.startswith("   ")] == [
        ["fused_equals_explicit", "skipped"],
        ["shape", "kept"],
        ["causality", "broken"],
        ["map", "broken"],
    ]
    assert lines[2] == "      the fused kernel does not serve this variant"
    assert lines[5].startswith("      T=2: changing the tokens from 1 on moves the output at 0 by ")
    last = r"1 kept, 2 broken \(causality, map\), 1 skipped in \d+\.\d s; begin with causality: y\[:, i\] is a "
    assert re.match(last, lines[-1])


def test_a_law_is_named_before_it_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        shown = ""

        def flush(self) -> None:
            self.shown = self.getvalue()

    screen, at_work = Screen(), []

    def judge(law: str, subject: Subject) -> Verdict:
        at_work.append(screen.shown.splitlines()[-1].strip())
        return Verdict(law, "", "kept", "")

    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(laws, "judge", judge)
    assert typed("attention=multi_head") == 0
    assert at_work == list(LAWS)


def test_constructor_that_crashes(capsys: pytest.CaptureFixture[str], mine: Path) -> None:
    """A constructor that crashes breaks the laws."""
    assert typed(*of(mine, "crashes"), "laws=shape") == 1
    assert "      AttributeError: 'Crashes' object has no attribute 'nothing'" in capsys.readouterr().out.splitlines()


# What is judged


def test_further_words_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[Any] = []

    def judge(law: str, subject: Subject) -> Verdict:
        judged.append(subject.config)
        return Verdict(law, "", "kept", "")

    monkeypatch.setattr(laws, "judge", judge)
    words = ["attention/mask=window", "attention.mask.window=3", "model.n_heads=2", "position=alibi", "laws=shape"]
    assert typed("attention=multi_head", *words, "experiment=shakespeare_char_baseline") == 0
    (config,) = judged
    assert config.attention["mask"]["window"] == 3 and config.attention["n_heads"] == 2
    assert config.position.inside["_target_"] == "attnlab.attention.position_bias.ALiBi"
    assert config.experiment_name != "default"


def test_overrides_in_order() -> None:
    """Words of other keys are handed on in their order."""
    found = parsed("check", ["model.n_heads=2", "attention=x", "+a.b=c=d"])
    assert found["overrides"] == ("model.n_heads=2", "+a.b=c=d") and found["attention"] == "x"
    assert parsed("check", ["attention=x"])["overrides"] == ()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["attention=x", "model.n_heads=2", "model.n_heads=4"],
            "model.n_heads is given twice, as model.n_heads=2",
        ),
        (["attention=x", "-m"], "'-m' is not an argument of attnlab check"),
        (["attention=x", "--config-dir=y"], "'--config-dir=y' is not an argument of attnlab check"),
        (
            ["multi_head"],
            "'multi_head' has no key in attnlab check: write key=value, such as attention=multi_head (keys: ",
        ),
        ([], "attnlab check needs attention=..."),
    ],
)
def test_words_that_are_no_settings_are_refused(words: list[str], line: str) -> None:
    with pytest.raises(UsageError) as error:
        parsed("check", words)
    assert str(error.value).startswith(line)


# What is refused

REFUSALS = [
    ("rul", "", "attention=rul does not exist; did you mean 'rule'? (choose from: ", "gqa, ", "rule"),
    ("rule,gqa", "", "attention (rule,gqa) must be one of: ", "multi_head, ", "rule"),
    ("null", "", "attention (null) must be one of: ", "multi_head, ", "rule"),
    ("rule", "laws=shape,causalty", "laws (causalty) must be among: shape, causality", "; did you mean 'causality'?"),
    ("rule", "law=shape", "law is not a key of the config"),
    ("rule", "attention/mask=window", "attention=rule has no slot 'mask': it has none"),
    ("rule", "attention.n_haeds=2", "attention.n_haeds is not a key of the config; did you mean 'attention.n_heads'?"),
    ("rule", "position=rope,alibi", "position= got several names (rope,alibi): attnlab check takes one"),
    ("rule", "model.n_heads=0", "model.n_heads (0) must be an integer of at least 1"),
    ("rule", "attention.n_heads=5", "n_heads (5) must divide d_model (128); try n_heads in [1, 2, 4, 8, 16, 32, 64]"),
    ("five", "model.d_model=40", "n_heads (5) must divide d_model (24); try n_heads in [1, ", "whatever model.d_model"),
    ("sixteen", "", "n_heads (16) must divide d_model (24); ", "such as model.n_heads=4, or attention.n_heads=4 where"),
    ("rule", "position=alibi", "position.inside (ALiBi) works through bias, but RuleAttention offers only rotate"),
    ("torn", "", "configs/attention/torn.yaml is not a YAML file: "),
    (
        "gqa",
        "",
        "attention (gqa) is shipped with attnlab, which would hide ",
        "configs/attention/gqa.yaml: rename yours",
    ),
]


@pytest.mark.parametrize(("name", "word", "pieces"), [(n, w, p) for n, w, *p in REFUSALS])
def test_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], mine: Path, name: str, word: str, pieces: list[str]
) -> None:
    """What cannot be judged is refused in one line."""
    assert typed(*of(mine, name), *filter(None, [word])) == 2
    written = capsys.readouterr()
    assert written.out == "" and written.err.startswith("error: ") and written.err.count("\n") == 1
    assert all(piece in written.err for piece in pieces), written.err


@pytest.mark.parametrize(
    ("folder", "packages", "line"),
    [
        ("configs", "", "attention._target_ (rule.RuleAttention) is not allowed: a config may only name classes of "),
        ("configs", "a-b", "allow_targets (['a-b']) must be a list of names of packages"),
        ("nowhere", "rule", "config_dir ({mine}/nowhere) is not a folder"),
        ("rule.py", "rule", "config_dir ({mine}/rule.py) is not a folder"),
        ("a,b", "rule", "config_dir ({mine}/a,b) lies where Hydra cannot look: its path holds ,"),
    ],
)
def test_folder_refused(capsys: pytest.CaptureFixture[str], mine: Path, folder: str, packages: str, line: str) -> None:
    """A folder or package that cannot serve is refused."""
    assert typed("attention=rule", f"config_dir={mine / folder}", f"allow_targets={packages}") == 2
    assert capsys.readouterr().err.startswith(f"error: {line.format(mine=mine)}")
