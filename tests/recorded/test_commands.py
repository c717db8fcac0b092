"""Every recorded command ends as it did, makes the files that it made, and comes to the same numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.recorded.commands import COMMANDS, RECORDED, processor, type_all


def test_recorded_exit_codes() -> None:
    """What was recorded is of the list; commands that are wrong end with 2, and a variant that breaks a law with 1."""
    entries = json.loads(RECORDED.read_text())["commands"]
    assert entries and set(entries) <= set(COMMANDS) and len(COMMANDS) >= 40
    for name, entry in entries.items():
        wrong = name.startswith(("wrong", "missing"))
        assert entry["exit"] == (2 if wrong else 1 if name == "check own" else 0), name


@pytest.mark.slow
def test_commands(tmp_path: Path) -> None:
    """To the last digit on the kind of processor that recorded; elsewhere sums may be in another order."""
    recording = json.loads(RECORDED.read_text())
    tolerance = 0.0 if recording["processor"] == processor() else 1e-4
    entries = dict(type_all(tmp_path))
    for name, then in recording["commands"].items():
        now = entries[name]
        assert (now["exit"], now["files"]) == (then["exit"], then["files"]), (name, now.get("error"))
        assert now["numbers"].keys() == then["numbers"].keys(), name
        for file, values in then["numbers"].items():
            assert now["numbers"][file].keys() == values.keys(), (name, file)
            for key, value in values.items():
                _same(now["numbers"][file][key], value, tolerance, f"{name}: {key} of {file}")


def _same(now: Any, then: Any, tolerance: float, what: str) -> None:
    if isinstance(then, dict):
        assert now.keys() == then.keys(), what
        for key in then:
            _same(now[key], then[key], tolerance, what)
    elif isinstance(then, int | float):
        np.testing.assert_allclose(now, then, rtol=tolerance, atol=tolerance, err_msg=what)
    else:
        assert now == then or tolerance, what
