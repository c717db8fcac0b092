"""A folder of YAML files is data: it sets nothing of Hydra's own, and stands for no more than a config holds."""

from pathlib import Path
from typing import Any

import pytest

from attnlab.config.compose import compose_config
from attnlab.config.guard import MOST_CHARACTERS, check_references, from_environment
from attnlab.errors import UsageError

BOMB = "".join(
    f"  {new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdef", "bcdefg", strict=True)
)
DOUBLED = "".join(f"  a{i}: ${{notes.a{i + 1}}}${{notes.a{i + 1}}}\n" for i in range(30))


def composed(folder: Path, content: str, *words: str) -> str:
    """Why a file of the folder's is refused; nothing if it is not."""
    (folder / "experiment").mkdir(exist_ok=True)
    (folder / "experiment" / "theirs.yaml").write_text(content)
    try:
        compose_config(["+experiment=theirs", *words], [folder])
    except UsageError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ("# @package _global_\nhydra: {callbacks: {x: {_target_: os.system, command: true}}}", "hydra.callbacks"),
        (
            "# @package hydra.job_logging\nhandlers: {f: {class: logging.FileHandler, filename: evil}}",
            "hydra.job_logging.",
        ),
        ("# @package _global_\nhydra: {run: {dir: /tmp/evil}}", "hydra.run.dir (/tmp/evil)"),
        ("# @package _global_\nhydra: {job: {env_set: {A: b}}}", "hydra.job.env_set"),
        ("# @package _global_\nhydra: {launcher: {_target_: os.system}}", "hydra.launcher._target_ (os.system)"),
    ],
)
def test_hydra_is_not_set_by_a_file(tmp_path: Path, content: str, key: str) -> None:
    message = composed(tmp_path, content)
    assert message.startswith(key) and "must be typed" in message and "\n" not in message


def test_what_may_be_set(tmp_path: Path) -> None:
    """Numbers of the launcher in a file, anything on the command line."""
    assert composed(tmp_path, "# @package _global_\nhydra: {launcher: {n_jobs: 2}}", "hydra.run.dir=here") == ""


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (f"# @package _global_\nnotes:\n  a: &a [x, x, x, x, x, x, x, x, x, x]\n{BOMB}", "stands for more than 10,000"),
        ("[" * 100_000, "is nested more than 64 deep"),
        ("a: 1\n" * 400_000, "is longer than 1,048,576"),
        (f"# @package _global_\nnotes:\n{DOUBLED}  a30: x", "refers to more than 1,000,000 characters"),
    ],
)
def test_more_than_a_config_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    assert reason in composed(tmp_path, content)


def doubled(depth: int) -> dict[str, Any]:
    return {"n": {"z": "x"} | {f"a{i}": f"${{.a{i + 1}}}${{.a{i + 1}}}" for i in range(depth)} | {f"a{depth}": "xy"}}


def test_references_are_counted() -> None:
    """2 characters, doubled so often: with the references themselves, just what a config may come to, and beyond it."""
    fits = next(depth for depth in range(40) if 2 ** (depth + 1) * 12 > MOST_CHARACTERS) - 4
    check_references(doubled(fits))
    with pytest.raises(UsageError, match=r"^n\.a\d+ refers to more than 1,000,000 characters"):
        check_references(doubled(fits + 6))


def test_references_in_a_circle() -> None:
    """OmegaConf refuses what leads back to itself; it is not counted for ever here. A chain without end is refused."""
    check_references({"a": "${b}", "b": "${a}", "c": {"d": "${.d}"}})
    with pytest.raises(UsageError, match="a chain that is too long"):
        check_references({f"a{i}": f"${{a{i + 1}}}" for i in range(5_000)})


@pytest.mark.parametrize(
    ("raw", "secret"),
    [
        ({"a": "${oc.env:KEY}", "b": "plain"}, {"a"}),
        ({"a": "${ oc.env:KEY,x}"}, {"a"}),
        ({"a": "${oc.env:KEY}", "b": "x ${a}", "c": {"d": "${..b}", "e": "${.f}", "f": "ours"}}, {"a", "b", "c.d"}),
        ({"all": {"in": "${oc.env:KEY}", "out": "ours"}, "copy": "${all}"}, {"all.in", "copy"}),
        ({"list": ["ours", "${oc.env:KEY}"], "first": "${list[0]}"}, {"list[1]"}),
        ({"a": "${b}", "b": "${a}"}, set()),
    ],
)
def test_from_environment(raw: dict[str, Any], secret: set[str]) -> None:
    """What comes from the environment, by however many references, and nothing else; a number is none."""
    assert {*from_environment(raw, {})} == secret
    assert "a" not in from_environment(raw, {**raw, "a": 3})
