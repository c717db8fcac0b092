"""All of a step is one row of trackio, on a package that only notes what it is asked."""

import io
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from attnlab.training.recorders.trackio import TrackioRecorder


class Run(SimpleNamespace):
    def log(self, row: dict[str, Any], step: int) -> None:
        self.rows.append((step, row))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the package is made with."""
    settings: dict[str, Any] = {}
    package: Any = ModuleType("trackio")

    def init(project: str, **options: Any) -> Run:
        print("* Trackio project initialized")
        settings.update(options, project=project)
        return Run(id="r1", rows=[], config={"given": 1})

    package.init, package.Markdown, package.Image = init, lambda text: ("md", text), lambda image: ("png", image.size)
    monkeypatch.setitem(sys.modules, "trackio", package)
    return settings


def test_rows(asked: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers, texts and pictures of a step come together, once, and nothing is printed."""
    recorder = TrackioRecorder(project="p", name="n", group="e", job_type="gqa", space_id="s")
    recorder.config({"seed": 3})
    assert recorder.run.config == {"given": 1, "job_type": "gqa", "seed": 3}
    png = io.BytesIO()
    Image.new("L", (2, 3)).save(png, "PNG")
    recorder.scalars({"a": 1.0}, 5)
    recorder.text("t", "words", 5)
    recorder.image("i", png.getvalue(), 5)
    recorder.save()
    recorder.save()
    recorder.scalars({"a": 2.0}, 6)
    recorder.save()
    first: dict[str, Any] = {"a": 1.0, "t": ("md", "words"), "i": ("png", (2, 3))}
    assert recorder.run.rows == [(5, first), (6, {"a": 2.0})]
    assert (recorder.given_id(), capsys.readouterr().out) == ("r1", "")


def test_goes_on(asked: dict[str, Any]) -> None:
    """A run goes on under its name; what the machine does is not watched unless that is asked for."""
    TrackioRecorder(project="p", name="n", auto_log_gpu=True)
    assert (asked["resume"], asked["name"], asked["auto_log_gpu"], asked["auto_log_cpu"]) == ("allow", "n", True, False)
