"""The battery: its cells, what a result says, and that nothing that is finished is run again."""

from pathlib import Path

import pytest

from attnlab.build import made
from attnlab.card.battery import Result, cells, chosen_cells, results
from attnlab.card.pages import save
from attnlab.config import compose_config
from attnlab.data.task import Task
from attnlab.errors import UsageError

TASK = {
    "bounds": {"floor": {"accuracy": 0.25, "loss": 1.4}, "ceiling": {"accuracy": 1.0, "loss": 0.0}},
    "extrapolation": {"1": {"accuracy": 0.7}, "2": {"accuracy_beyond": 0.1}, "4": {"cannot": "it ends there"}},
}


@pytest.mark.parametrize("cell", cells())
def test_every_cell_can_be_composed_and_fits_its_rows(cell: str) -> None:
    config = compose_config([f"+card={cell}"])
    source = made(config, "data")
    if isinstance(source, Task):
        for factor in (1, *config["evaluation"]["lengths"]):
            source.check_context(factor * config["model"]["context"])
    assert config["evaluation"]["lengths"] == [2, 4, 8]


def test_a_value_stands_between_floor_and_ceiling() -> None:
    result = Result("a", "mqar", TASK)
    assert result.gained(1) == pytest.approx((0.7 - 0.25) / 0.75)
    assert result.gained(2) == 0.0 and result.gained(4) is None
    assert result.reason(4) == "it ends there"


def test_a_cell_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^cells \(mqr\) must be among: text, .*did you mean 'mqar'"):
        chosen_cells(["mqr"])


def test_finished_cells_are_not_run_again_and_what_fails_is_told(tmp_path: Path) -> None:
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
