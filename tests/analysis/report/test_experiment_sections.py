"""What a report says of the experiment: every run is counted, and every rate has its place."""

from pathlib import Path

from tests.analysis.folders import write_arm, write_run

from attnlab.analysis.analyse import analyse
from attnlab.analysis.report.document import Picture, Table
from attnlab.analysis.report.experiment_sections import aggregate, effects, learning_rates, runs, starts
from attnlab.analysis.settings import Options


def tables(blocks: list[object]) -> list[Table]:
    return [block for block in blocks if isinstance(block, Table)]


def test_runs(tmp_path: Path) -> None:
    """Each run once by how it stands; who has no result is named with the reason."""
    write_arm(tmp_path, "multi_head", [2.0, 2.1])
    write_run(tmp_path, "linear", 0, 9.0, status="diverged")
    (write_run(tmp_path, "linear", 1, 2.0) / "metrics.csv").unlink()
    report = analyse(tmp_path)
    counts, table = runs(report)
    assert counts == "4 runs: 2 finished, 1 diverged, 1 damaged."
    assert isinstance(table, Table) and [row[1] for row in table.rows] == ["diverged", "damaged"]
    assert table.rows[0][2] == "at step 40" and "metrics.csv" in table.rows[1][2]
    assert aggregate(report) == effects(report) == learning_rates(report) == []


def test_learning_rates(tmp_path: Path) -> None:
    """A variant that ran at several rates has a row and a panel."""
    for rate, loss in ((5e-4, 2.5), (1e-3, 2.0), (2e-3, 2.2), (4e-3, 3.0)):
        write_arm(tmp_path, "multi_head", [loss, loss + 0.01, loss + 0.02], settings={"optimizer.lr": rate})
    blocks = learning_rates(analyse(tmp_path))
    (table,) = tables([*blocks])
    cells = dict(zip(table.columns, *table.rows, strict=True))
    assert (cells["variant"], cells["settings tried"], cells["best rate"], cells["compared at"]) == (
        *("multi_head", "4", "0.001", "0.001"),
    )
    assert (cells["tuning seeds"], cells["final seeds"]) == ("0", "1, 2")
    assert any(isinstance(block, Picture) for block in blocks)


def test_effects(tmp_path: Path) -> None:
    """Two settings that are both varied: an effect for each and one for both."""
    for depth in (2, 4):
        for dropout in (0.0, 0.2):
            finals = [2.0 + depth / 10 + 2 * dropout + seed / 100 for seed in range(3)]
            write_arm(tmp_path, "multi_head", finals, settings={"model.n_layers": depth, "model.dropout": dropout})
    report = analyse(tmp_path, Options(baseline="multi_head model.n_layers=2 model.dropout=0"))
    (table,) = tables([*effects(report)])
    assert [row[1:3] for row in table.rows[:2]] == [["main", "+0.2000"], ["main", "+0.4000"]]
    assert table.rows[2][1] == "interaction" and abs(float(table.rows[2][2])) < 1e-9


def test_starts(tmp_path: Path) -> None:
    """A row for each kind of layer of a variant; what a summary says wrongly, or not at all, is left out."""
    number = {"size": "4x4", "mean": 0.0, "std": 0.02, "decayed": True}
    bias = {"size": "4", "mean": 2.0, "std": 0.0, "decayed": False}
    parameters = {"to_q.weight": number, "decay.bias": bias}
    layer = {"layers": [0, 1], "class": "C", "dropout": None, "parts": {"gate": "Swish"}, "parameters": parameters}
    layer["published"] = {
        "decay.bias": "uniform 0 to 1",
        "norm.weight": "as here",
        "pool": "not said",
        "own": "as here",
    }
    write_arm(tmp_path, "gated_delta", [2.0, 2.1], summary={"starts": [layer, {**layer, "parameters": {"x": 1}}, 3]})
    write_arm(tmp_path, "multi_head", [2.0, 2.1])
    (table,) = tables([*starts(analyse(tmp_path))])
    (row,) = [dict(zip(table.columns, each, strict=True)) for each in table.rows]
    assert (row["variant"], row["layers"], row["parts"]) == ("gated_delta", "0, 1", "gate Swish")
    assert row["in the source"] == "decay.bias uniform 0 to 1, as here: norm own, not said: pool"
    assert (row["drawn"], row["constant"]) == ("to_q 0.0200", "decay.bias 2.0000")
    assert (row["no weight decay"], row["dropout of weights"]) == ("decay.bias", "drops none")
