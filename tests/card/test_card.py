"""The battery: its cells, what a result says, and that nothing that is finished is run again."""

from pathlib import Path
from typing import Any

import pytest

from attnlab.build import instantiate
from attnlab.card.battery import CONTROLS, Result, above, best_control, cells, chosen_cells, results
from attnlab.card.pages import against_controls, line, save
from attnlab.config.compose import compose_config
from attnlab.data.task import Task
from attnlab.errors import AttnlabError, FileFailure, Stopped, UsageError
from attnlab.training.notes import log, note

TASK = {
    "bounds": {"floor": {"accuracy": 0.25, "loss": 1.4}, "ceiling": {"accuracy": 1.0, "loss": 0.0}},
    "extrapolation": {"1": {"accuracy": 0.7}, "2": {"accuracy_beyond": 0.1}, "4": {"cannot": "it ends there"}},
}


@pytest.mark.parametrize("cell", cells())
def test_cells_can_be_composed(cell: str) -> None:
    """Every cell can be composed and fits its rows."""
    config = compose_config([f"+card={cell}"])
    source = instantiate(config, "data")
    if isinstance(source, Task):
        for factor in (1, *config.evaluation.lengths):
            source.check_context(factor * config.model.context)
    assert config.evaluation.lengths == [2, 4, 8]


def test_a_value_stands_between_floor_and_ceiling() -> None:
    result = Result("a", "mqar", TASK)
    assert result.gained(1) == pytest.approx((0.7 - 0.25) / 0.75)
    assert result.gained(2) == 0.0 and result.gained(4) is None
    assert result.reason(4) == "it ends there"


def reached(variant: str, accuracy: float | None, error: float = 0.02) -> Result:
    at = {"cannot": "it diverged"} if accuracy is None else {"accuracy": accuracy, "accuracy_error": error}
    return Result(variant, "mqar", TASK | {"extrapolation": {"1": at}})


def test_above_the_best_control() -> None:
    """By more than both errors together; the controls themselves are above nothing."""
    controls = [reached("identity", 0.25), reached("uniform", 0.6), reached("identity+conv4", None)]
    variants = [reached("a", 0.64), reached("b", 0.62), reached("c", None), reached("d", 0.5)]
    results = [*variants, *controls]
    assert best_control(results, "mqar", 1) is controls[1]
    assert [above(r, results, 1) for r in results] == [True, False, None, False, None, None, None]
    assert above(variants[0], variants, 1) is None, "without controls nothing is said"
    lines = [row for row in against_controls(results) if row[2] == "x1"]
    below = "not above the best control"
    assert [row[-1] for row in lines] == ["above the best control", below, "not measured", below]
    assert lines[0][3:5] == ["64.0% ± 2.0%", "uniform 60.0% ± 2.0%"]


def test_a_loss_above_the_best_control() -> None:
    """Where an exact solver errs, or in a text, the lower loss is the better one."""
    low, high = (Result(name, "text", {"extrapolation": {"1": {"loss": loss}}}) for name, loss in (("a", 1), ("b", 3)))
    control = Result("uniform", "text", {"extrapolation": {"1": {"loss": 2}}})
    found = [low, high, control]
    assert [above(r, found, 1) for r in found] == [True, False, None]


def test_not_measured_is_said() -> None:
    assert "not measured: it diverged" in line(Result("a", "mqar", {}, trouble="it diverged"))
    assert Result("a", "mqar", {}).reason(1) == "not run"


@pytest.mark.slow
def test_controls_ignore_settings(tmp_path: Path) -> None:
    """`attention.` words belong to the variants; the short convolution alone sees four tokens back."""
    words = ("trainer.max_steps=2", "model.d_model=16", "data.val_rows=32", "trainer.threads=1", "attention.conv=2")
    names = ["multi_head", *CONTROLS]
    found = list(results(names, ["compression"], folder=tmp_path, overrides=words))
    assert [r.variant for r in found] == names and not any(r.trouble for r in found)
    sizes = {r.variant: r.summary["parameters"] for r in found}
    assert sizes["identity"] == sizes["uniform"] == sizes["identity+conv4"] - 2 * 4 * 16
    assert all(r.value(1) is not None for r in found)


def test_notes_of_a_run_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """How training goes is not, but what must be known is, such as that other code made what is there."""

    def run(*_: Any, **__: Any) -> dict[str, Any]:
        log("step 1/2")
        note("note: was made by other code")
        return {}

    monkeypatch.setattr("attnlab.training.run.run", run)
    list(results(["multi_head"], ["compression"], folder=tmp_path))
    assert capsys.readouterr() == ("", "note: was made by other code\n")


@pytest.mark.parametrize("error", [FileFailure("the disk is full"), Stopped("stopped", 143)])
def test_what_ends_all_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: AttnlabError) -> None:
    """A card with holes is not drawn because a disk was full: the command ends, and goes on when it is typed again."""

    def run(*_: Any, **__: Any) -> dict[str, Any]:
        raise error

    monkeypatch.setattr("attnlab.training.run.run", run)
    with pytest.raises(type(error)):
        list(results(["multi_head"], ["compression"], folder=tmp_path))


def test_a_cell_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^cells \(mqr\) must be among: text, .*did you mean 'mqar'"):
        chosen_cells(["mqr"])


def test_finished_cells(tmp_path: Path) -> None:
    """Finished cells are not run again and what fails is told."""
    words = ("trainer.max_steps=2", "model.d_model=16", "model.n_layers=1", "data.val_rows=4", "trainer.threads=1")
    first = list(results(["multi_head"], ["compression"], folder=tmp_path, overrides=words))
    again = list(results(["multi_head"], ["compression"], folder=tmp_path, overrides=words))
    assert first[0].summary["started"] == again[0].summary["started"]
    assert set(first[0].summary["extrapolation"]) == {"1", "2", "4", "8"}
    failed = Result("gqa", "compression", {}, trouble="it cannot <be>")
    paths = save([*first, failed], tmp_path, "attnlab card attention=multi_head,gqa")
    page = paths[1].read_text()
    assert paths[0].read_bytes()[:4] == b"\x89PNG"
    assert "it cannot &lt;be&gt;" in page and 'src="http' not in page and "data:image/png;base64" in page
