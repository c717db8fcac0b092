"""Random words on the command line: what they describe is built, or refused in one line."""

import random
import runpy
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import attnlab.training.run
from attnlab.config.compose import compose_config
from attnlab.config.keys import groups, options
from attnlab.store.leaves import leaves

TRAIN = Path(__file__).parents[2] / "train.py"
SMALL = ["model=tiny", "model.context=16", "batch_size=2", "trainer.max_steps=2", "maps.steps=2", "sample.tokens=2"]
FETCHED = ("tiny_shakespeare", "the_verdict", "gpt2", "cl100k_base", "o200k_base")  # not on this machine
APPENDED = ("hydra", "sweep", "card", "experiment")
VALUES = ("0", "1", "2", "3", "4", "8", "16", "-1", "0.5", "1.5", "1e-3", "1e400", "nan", "null", "true", "x", "[1,2]")
DRAWS, SEED, ALWAYS = 1500, 11, 6


def draw(chance: random.Random, keys: list[str]) -> list[str]:
    """One to three words: options of groups and slots, values of keys, some of them misspelled."""
    words, chosen = [], [group for group in groups() if not group.startswith(APPENDED)]
    for _ in range(chance.randint(1, 3)):
        if chance.random() < 0.6:
            group = chance.choice(chosen)
            names = [name for name in options(group) if name not in FETCHED]
            word = f"{group}={chance.choice(names)}" if names else "seed=1"
            if group == "attention/score":
                word = f"{group}=[{word.partition('=')[2]}]"
        else:
            word = f"{chance.choice(keys)}={chance.choice(VALUES)}"
        if chance.random() < 0.05:
            at = chance.randrange(len(word))
            word = word[:at] + chance.choice("abz_=.") + word[at + 1 :]
        words.append(word)
    return words


def answer(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """ "built", "refused", or what went wrong with these words."""
    monkeypatch.setattr(sys, "argv", ["train.py", *SMALL, *words])
    code: Any = 0
    try:
        runpy.run_path(str(TRAIN), run_name="__main__")
    except SystemExit as end:
        code = end.code
    except BaseException as error:
        code = repr(error)
    told = capsys.readouterr().err.splitlines()
    if code == 0:
        return "built"
    if code == 2 and len(told) == 1 and told[0].startswith("error: "):
        return "refused"
    return f"{words} ended with {code}: {told[-3:]}"


def check(numbers: range, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(attnlab.training.run, "_train", lambda *_, **__: {"val_loss": 1.0})
    keys = [key.partition("[")[0] for key, _ in leaves(compose_config(SMALL).as_dict()) if "_target_" not in key]
    answers = [answer(draw(random.Random(f"{SEED}/{i}"), keys), monkeypatch, capsys) for i in numbers]
    torch.set_num_threads(1)
    wrong = [told for told in answers if told not in ("built", "refused")]
    with capsys.disabled():
        print(f"\n{len(answers)} draws: {dict(Counter('wrong' if told in wrong else told for told in answers))}")
    assert not wrong, "\n".join(wrong)
    assert {"built", "refused"} <= set(answers)


def test_overrides(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A few draws."""
    check(range(ALWAYS), monkeypatch, capsys, tmp_path)


@pytest.mark.slow
def test_overrides_all(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """All draws; they are printed in three kinds."""
    check(range(DRAWS), monkeypatch, capsys, tmp_path)
