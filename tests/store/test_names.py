"""The files of runs and experiments are named in attnlab.store alone: elsewhere their names are imported."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import attnlab

SOURCE = Path(attnlab.__file__).parent
FILES = re.compile(
    r"(config|tuned)\.yaml|(code|summary|tokenizer|manifest|preregistration|attention_dtype|resolved|head_ablation)\.json"
    r"|metrics\.csv|learning_rates\.svg|(best|last)\.safetensors|\.ckpt|events\.out|\bseed_(?!oss)"
)
THEIRS = {"tokenizer.json", ".ckpt"}  # files that models of others have, too: named where those are read
READ_THEIRS = ("interchange/", "data/hf_files.py", "data/vocabularies.py", "cli/import_.py")
FOLDERS = {"checkpoints", "maps", "prompt", "logs", "report"}  # words of other things, too: names where / comes before


def named(code: str) -> Iterator[str]:
    """The names of files and folders in a source; docstrings may tell of them."""
    tree = ast.parse(code)
    nodes = list(ast.walk(tree))
    scopes = [node for node in nodes if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
    told = {id(scope.body[0].value) for scope in scopes if isinstance(scope.body[0], ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            yield from (match[0] for match in FILES.finditer(node.value))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.right, ast.Constant):
            yield from {node.right.value} & FOLDERS


def test_named_in_store_alone() -> None:
    others = [path for path in SOURCE.rglob("*.py") if not path.is_relative_to(SOURCE / "store")]
    names = {path.relative_to(SOURCE).as_posix(): set(named(path.read_text(encoding="utf-8"))) for path in others}
    ours = {path: each - THEIRS if path.startswith(READ_THEIRS) else each for path, each in names.items()}
    assert {path: sorted(each) for path, each in ours.items() if each} == {}


@pytest.mark.parametrize(
    "code", ["f('summary.json')", "f'{x}: no config.yaml'", "run / 'maps'", "p.glob('*/seed_*')", "x = 'step_1.ckpt'"]
)
def test_a_name_is_noticed(code: str) -> None:
    assert list(named(code)) and list(named("config['maps'], 'reports'")) == list(named('"""Of summary.json."""')) == []
