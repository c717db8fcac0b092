"""Sweeps that other commands ask for."""

from pathlib import Path

import pytest

from attnlab.errors import UsageError
from attnlab.sweep.command import train_design


def test_refused_sweep(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its design is a file that can be typed again, and what is wrong with it is told by who knows it."""
    design = {"design": "grid", "settings": {"model.n_head": 2}, "axes": {"attention": ["gqa", "mqa"]}, "seeds": [0]}
    with pytest.raises(UsageError, match="refused the sweep"):
        train_design(tmp_path / "e", "two", design, [])
    out, err = capfd.readouterr()
    assert out.startswith("attnlab train -m --config-dir ") and "+sweep=two" in out
    assert "model.n_head" in err and "Traceback" not in err
    assert not list((tmp_path / "e").glob("*/seed_0"))
