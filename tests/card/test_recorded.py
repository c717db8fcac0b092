"""What is recorded of the card in docs/card: of names and cells that there are, and shown as it is recorded."""

import json
from pathlib import Path
from typing import Any

import pytest
from docs import card
from docs.card import BEGIN, PAGE, merged, of_run, page, recorded, results, rows_of, text_of

from attnlab.card.battery import CONTROLS, Result, cells
from attnlab.config.compose import compose_config
from attnlab.config.keys import options

NAMES = {*options("attention"), *CONTROLS}
BOUNDS = {"floor": {"accuracy": 0.25, "loss": 1.4, "predictor": "by_place"}, "ceiling": {"accuracy": 1.0, "loss": 0.0}}


def summary(accuracy: float, *, steps: int = 800) -> dict[str, Any]:
    at = {
        "1": {"accuracy": accuracy, "accuracy_error": 0.01},
        "2": {"accuracy_beyond": 0.5, "accuracy_beyond_error": 0.02},
        "4": {"cannot": "it ends there"},
        "8": {"accuracy_beyond": 0.3, "accuracy_beyond_error": 0.02},
    }
    made = {"git_commit": "0123456789", "git_dirty": False, "started": "2026-11-30T17:27:57+00:00"}
    of_cell = {"seed": 0, "step": steps, "bounds": BOUNDS, "status": "finished"}
    return {"extrapolation": at, **made, **of_cell}


def stale(record: card.Cells) -> list[str]:
    """What a record holds of names and cells that are no more, or of cells that are others now."""
    of_cells = [cell for cell in record if cell not in cells()]
    of_names = [f"{cell}: {name}" for cell, about in record.items() for name in about["runs"] if name not in NAMES]
    changed = [
        f"{cell}: {about['steps']} steps"
        for cell, about in record.items()
        if cell in cells() and compose_config([f"+card={cell}"]).trainer.max_steps != about["steps"]
    ]
    return of_cells + of_names + changed


def test_names_and_cells_exist() -> None:
    """Every name and cell that is recorded is there, with the steps that it has today."""
    assert stale(recorded()) == []
    runs = {"no_such_name": of_run(Result("a", "mqar", summary(0.5)))}
    record = {"mqar": {"steps": 7, "seed": 0, "bounds": BOUNDS, "runs": runs}, "no_cell": {"steps": 1, "runs": {}}}
    assert stale(record) == ["no_cell", "mqar: no_such_name", "mqar: 7 steps"]


def test_page() -> None:
    """docs/card.md is what its command writes of the record, every name in it or under "Not run"."""
    text = PAGE.read_text(encoding="utf-8")
    assert page(text, recorded()) == text, "run: python -m docs.card"
    assert all(f"`{name}`" in text.split(BEGIN)[1] for name in options("attention"))
    assert "/" not in json.dumps(recorded()), "no path stands in the record"


def test_text() -> None:
    """What is written is read back as it was, and a result says what its run came to."""
    runs = {"b": of_run(Result("b", "mqar", summary(0.5))), "a": of_run(Result("a", "mqar", summary(0.98765)))}
    record = {"mqar": {"seed": 0, "steps": 800, "bounds": BOUNDS, "runs": runs}}
    assert json.loads(text_of(record)) == record and text_of(record).count("\n") == 6
    best, worst = results(record)
    assert (best.variant, best.value(1), best.error(2), best.reason(4)) == ("a", 0.9877, 0.02, "it ends there")
    assert worst.value(8) == 0.3 and [r.variant for r in results(record, "b")] == ["b"]
    assert runs["a"]["date"] == "2026-11-30" and runs["a"]["commit"] == "01234567"


class Run:
    """The folder of a run, of which only this is read."""

    def __init__(self, path: Path, steps: int) -> None:
        self.path, self.steps, self.name = path, steps, "mqa-0.0/seed_0"

    def read_summary(self) -> dict[str, Any]:
        return {"variant": "mqa", **summary(0.9, steps=self.steps)}

    def read_config(self) -> dict[str, Any]:
        return compose_config(["+card=mqar", "attention=mqa", f"trainer.max_steps={self.steps}"]).as_dict()


@pytest.mark.parametrize("steps", [800, 100])
def test_other_settings(steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was shortened is left out; a cell that was recorded with other steps begins anew."""
    folder = tmp_path / "runs" / "mqar" / "mqa-0.0" / "seed_0"
    folder.mkdir(parents=True)
    (folder / "summary.json").touch()
    monkeypatch.setattr(card, "find_run", lambda path: Run(path, steps))
    before = {"mqar": {"seed": 0, "steps": 100, "bounds": BOUNDS, "runs": {"old": {}}}}
    assert [*merged(before, tmp_path)["mqar"]["runs"]] == (["mqa"] if steps == 800 else ["old"])


def test_on_its_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variant's page has the cells that are recorded of it beside the best control, and nothing of others."""
    runs = {n: of_run(Result(n, "mqar", summary(x))) for n, x in (("mqa", 0.9), ("gqa", 0.4), ("uniform", 0.3))}
    record = {"mqar": {"seed": 0, "steps": 800, "bounds": BOUNDS, "runs": runs}}
    monkeypatch.setattr(card, "recorded", lambda: record)
    assert [*rows_of("mla")] == []
    *_, row, _, missing = rows_of("mqa")
    assert missing.startswith("Not run: text, compression, ") and "mqar" not in missing
    assert row == "| mqar | 25% by_place | 90%▲ · 50% · - · 30% | uniform 30% | 2026-11-30, commit 01234567 |"
