"""A folder of YAML files is data: it sets nothing of Hydra's own, and stands for no more than a config holds."""

from pathlib import Path

import pytest

from attnlab.config.compose import compose_config
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
