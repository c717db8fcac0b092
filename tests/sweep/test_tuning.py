"""A learning rate per variant: the fit, the widened grid, the seeds that may not judge, and what the report says."""

import csv
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from tests.analysis.folders import write_arm, write_run
from tests.training.launch import ROOT

from attnlab.analysis.analyse import analyse
from attnlab.analysis.report.content import document
from attnlab.analysis.report.document import Table
from attnlab.analysis.report.publish import write
from attnlab.config.compose import compose_config
from attnlab.config.tuned_lr import at_tuned_rate
from attnlab.errors import UsageError
from attnlab.sweep import tuning

RATES = (3e-4, 1e-3, 3e-3, 1e-2)
SEEDS = (100, 101)
BASE = [2.0, 2.1, 1.9, 2.05]


def bowl(rate: float, at: float) -> float:
    """A loss whose lowest point is known: 2 at `at`, a parabola in log rate."""
    return 2 + 0.1 * math.log(rate / at) ** 2


def write_grid(folder: Path, lowest: dict[str, float], rates: Sequence[float] = RATES) -> None:
    for variant, at in lowest.items():
        for rate in rates:
            for seed in SEEDS:
                write_run(folder, variant, seed, bowl(rate, at) + 0.01 * seed, settings={"optimizer.lr": rate})


def entries(folder: Path) -> dict[str, dict[str, object]]:
    content = yaml.safe_load((folder / "tuned.yaml").read_text())
    return {entry["variant"]: entry for entry in content["variants"]}


def tune(folder: Path, **changes: object) -> dict[str, dict[str, object]]:
    settings = {"metric": "val/loss", "rates": "", "seeds": "100,101", "extend": 2, "overrides": ()}
    tuning.tune(folder, **{**settings, **changes})  # type: ignore[arg-type]
    return entries(folder)


def test_the_lowest_point_of_a_known_parabola_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_grid(tmp_path / "t", {"multi_head": 1.3e-3, "linear": 2.4e-3})
    found = tune(tmp_path / "t")
    assert "8 settings of 2 variants were tried, in 16 runs" in capsys.readouterr().out
    assert found["multi_head"]["lr"] == pytest.approx(1.3e-3, rel=5e-3)
    assert found["linear"]["lr"] == pytest.approx(2.4e-3, rel=5e-3)
    assert [found[v]["best"] for v in ("multi_head", "linear")] == [1e-3, 3e-3]
    assert found["linear"]["seeds"] == list(SEEDS)
    # E over the grid of min(loss, loss before training) - best; the loss before training is two above the last
    losses = [bowl(rate, 1.3e-3) for rate in RATES]
    assert found["multi_head"]["sensitivity"] == pytest.approx(sum(losses) / 4 - min(losses), abs=1e-9)


def test_measured_beats_parabola(tmp_path: Path) -> None:
    """A parabola is not believed against what was measured."""
    for rate, loss in zip((1e-3, 2e-3, 4e-3, 8e-3), (3.28, 3.05, 3.12, 3.11), strict=True):
        write_run(tmp_path / "t", "multi_head", 100, loss, settings={"optimizer.lr": rate})
    entry = tune(tmp_path / "t")["multi_head"]
    assert entry["fitted"] == pytest.approx(3.7e-3, rel=0.05)  # where 4e-3 is measured to be worse than 2e-3
    assert entry["lr"] == entry["best"] == 2e-3
    assert "not near the best rate" in str(entry["remarks"])


def test_grid_widens_at_edge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The grid is widened for all where the best of one lies at its edge."""
    asked = []

    def sweep(folder: Path, rates: Sequence[float], seeds: Sequence[int], overrides: Sequence[str]) -> None:
        asked.append(list(rates))
        write_grid(folder, {"multi_head": 1e-3, "linear": 0.02}, rates)

    monkeypatch.setattr(tuning, "_sweep", sweep)
    words = {"rates": "2.5e-4,5e-4,1e-3,2e-3", "overrides": ("attention=multi_head,linear",)}
    found = tune(tmp_path / "t", **words)
    assert asked == [[2.5e-4, 5e-4, 1e-3, 2e-3], [4e-3], [8e-3]]
    assert found["linear"]["edge"] == "high" and found["multi_head"]["edge"] is None
    assert "optimizer.lr=0.016" in capsys.readouterr().out
    assert len(found["multi_head"]["curve"]) == len(found["linear"]["curve"]) == 6  # type: ignore[arg-type]
    asked.clear()
    tune(tmp_path / "u", **words, extend=0)
    assert len(asked) == 1


def test_beyond_a_rate_that_diverged_nothing_is_sought(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_grid(tmp_path / "t", {"multi_head": 5e-2}, RATES)
    write_run(tmp_path / "t", "multi_head", 100, 9.0, settings={"optimizer.lr": 3e-2}, status="diverged")
    write_run(tmp_path / "t", "multi_head", 101, 2.0, settings={"optimizer.lr": 3e-2})
    entry = tune(tmp_path / "t")["multi_head"]
    assert entry["best"] == 1e-2 and entry["edge"] is None
    assert entry["curve"][-1] == [3e-2, None]  # type: ignore[index]
    assert "diverged" in capsys.readouterr().out


def test_a_grid_with_holes_is_no_curve(tmp_path: Path) -> None:
    write_grid(tmp_path / "t", {"multi_head": 1e-3})
    run = next((tmp_path / "t").glob("*/seed_101"))
    (run / "summary.json").unlink()
    with pytest.raises(UsageError, match=r"lacks multi_head at .*, seed 101 \(unfinished"):
        tune(tmp_path / "t")
    write_arm(tmp_path / "u", "multi_head", BASE)
    with pytest.raises(UsageError, match="holds no variant at several learning rates"):
        tune(tmp_path / "u")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rates": "1e-3,2e-3,3e-3"}, "must be at least 4"),
        ({"rates": "1e-3,-2"}, r"rates \(1e-3,-2\) must be numbers above 0"),
        ({"rates": "1,2,3,4", "seeds": "a"}, r"seeds \(a\) must be integers"),
        ({"rates": "1,2,3,4", "seeds": "3-1"}, r"seeds \(3-1\) must be integers"),
        ({"rates": "1,2,3,4", "seeds": "0-1000000000000"}, r"seeds \(0-1000000000000\) must be integers"),
        ({"overrides": ("seed=1",)}, "leave seed out; seeds= says it"),
        ({"overrides": ("+optimizer.lr=1",)}, "leave optimizer.lr out; rates= says it"),
        ({"metric": "val/beauty"}, "does not say which way is better"),
    ],
)
def test_slips_are_refused_before_anything_runs(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tune(tmp_path / "t", **changes)
    assert not (tmp_path / "t").exists()


def test_final_seeds_are_new(tmp_path: Path) -> None:
    """Final runs take the rate and refuse the seeds that chose it."""
    write_grid(tmp_path / "t", {"multi_head": 1.3e-3, "linear": 2.4e-3})
    tune(tmp_path / "t")
    tuned = f"tuned={tmp_path / 't'}"
    config, told = at_tuned_rate(compose_config([tuned]), "linear")
    assert config.optimizer["lr"] == told["lr"] == pytest.approx(2.4e-3, rel=5e-3)
    assert told["seeds"] == list(SEEDS) and len(told["sha256"]) == 64
    for words, variant, message in (
        (["seed=101"], "linear", r"seed \(101\) is one of the seeds that chose the learning rate \(100, 101 in"),
        (["streams.data=100"], "linear", r"streams.data \(100\) is one of the seeds"),
        ([], "gqa", r"holds no rate for gqa \(it has: linear, multi_head\)"),
        (["optimizer=muon"], "linear", "was made with AdamW"),
    ):
        with pytest.raises(UsageError, match=message):
            at_tuned_rate(compose_config([tuned, *words]), variant)
    with pytest.raises(UsageError, match=r"chooses optimizer\.lr: leave one of them out"):
        compose_config([tuned, "optimizer.lr=1e-3"])
    with pytest.raises(UsageError, match=r"tuned \(nowhere\) must be the folder of an experiment with a tuned.yaml"):
        at_tuned_rate(compose_config(["tuned=nowhere"]), "linear")
    (tmp_path / "t" / "tuned.yaml").write_text("variants: [1]")
    with pytest.raises(UsageError, match="must hold a list variants"):
        at_tuned_rate(compose_config([tuned]), "linear")


def test_the_settings_tell_variants_of_one_name_apart(tmp_path: Path) -> None:
    for width, at in ((64, 1e-3), (128, 3e-3)):
        for rate in RATES:
            settings = {"optimizer.lr": rate, "model.d_model": width}
            write_run(tmp_path / "t", "multi_head", 100, bowl(rate, at), settings=settings)
    tuning.tune(tmp_path / "t", "val/loss", "", "100", 0, ())
    words = f"tuned={tmp_path / 't'}"
    for width, at in ((64, 1e-3), (128, 3e-3)):
        config, _ = at_tuned_rate(compose_config([words, f"model.d_model={width}"]), "multi_head")
        assert config.optimizer["lr"] == pytest.approx(at, rel=1e-2)
    with pytest.raises(UsageError, match=r"at other settings than these: model\.d_model=\d+, model\.d_model=\d+$"):
        at_tuned_rate(compose_config([words, "model.d_model=32"]), "multi_head")


def write_finals(folder: Path, tuned: Path, seeds: Sequence[int] = range(4)) -> None:
    for variant, rate in (("multi_head", 1.3e-3), ("linear", 2.4e-3)):
        for seed in seeds:
            settings = {"optimizer.lr": rate, "tuned": str(tuned)}
            write_run(folder, variant, seed, BASE[seed % 4] + (variant == "linear") * 0.1, settings=settings)


def test_report_shows_lr_curves(tmp_path: Path) -> None:
    """The report shows the curves of another folder and their sensitivity."""
    write_grid(tmp_path / "t", {"multi_head": 1.3e-3, "linear": 2.4e-3})
    write_finals(tmp_path / "f", tmp_path / "t", [*range(4), 100])
    report = analyse(tmp_path / "f")
    assert [c.n for c in report.comparisons] == [4], "a seed that chose the rate judges nothing"
    for c in report.design.arms:
        assert c.lr_curve is not None and [p.rate for p in c.lr_curve.points] == list(RATES)
        assert c.lr_curve.tuning_seeds == list(SEEDS) and c.lr_curve.final_seeds == [0, 1, 2, 3]
        assert "seeds 100 had chosen the rate and are left out" in c.lr_curve.remarks
    write(report, document(report), tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text().replace("\\_", "_")
    for words in ("sensitivity", str(tmp_path / "t"), "100, 101", "tuned for each variant on a grid"):
        assert words in text
    assert (tmp_path / "out" / "pictures" / "learning_rates.svg").is_file()


def test_tuning_differences(tmp_path: Path) -> None:
    """What differs between tuning and the final runs is told."""
    write_grid(tmp_path / "t", {"multi_head": 1e-2, "linear": 2.4e-3})
    for run in (tmp_path / "t").glob("*/seed_*/config.yaml"):
        run.write_text(run.read_text().replace("max_steps: 40", "max_steps: 20"))
    write_finals(tmp_path / "f", Path("elsewhere/t"))  # it was moved, together with the final runs
    by_name = {c.variant: c.lr_curve for c in analyse(tmp_path / "f").design.arms}
    remarks = " ".join(by_name["multi_head"].remarks)  # type: ignore[union-attr]
    assert "tuned at other settings: trainer.max_steps (20 there, 40 here)" in remarks
    assert "the final seeds ran at 0.0013, but" in remarks
    assert "is at the edge of the grid" in remarks
    write_finals(tmp_path / "g", Path("gone"))
    rates = analyse(tmp_path / "g").design.arms[0].lr_curve
    assert rates is not None and "no curve can be shown" in rates.remarks[0]


def matched(mode: str | None) -> dict[str, object]:
    return {"match": mode, "match_to": "multi_head"}


def told(mode: str, left: float) -> dict[str, object]:
    moved = {"model.mlp_ratio": [4.0, 4.75]}
    found = {"mode": mode, "to": "multi_head", "unit": "parameters of the layers", "budget": 1000, "got": 1004}
    beside = {"state": [640, 320]}
    return {"match": {**found, "left": 4, "left_percent": left, "moved": moved, "beside": beside}}


def test_tables_name_match_mode(tmp_path: Path) -> None:
    """Every table names the mode and what is left is shown."""
    for variant in ("multi_head", "linear"):
        write_arm(tmp_path / "e", variant, BASE, settings=matched("params"), summary=told("params", 0.4))
    report = analyse(tmp_path / "e")
    pages = document(report)
    tables = [block for section in pages.sections for block in section.blocks if isinstance(block, Table)]
    assert len(tables) >= 6
    assert all("matched by parameters" in table.caption for table in tables)
    write(report, pages, tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text().replace("\\_", "_")
    for words in ("Matched budgets", "+0.400 %", "model.mlp_ratio 4 to 4.75", "state -50.00 %"):
        assert words in text
    for name in ("verdicts.csv", "runs.csv"):
        with (tmp_path / "out" / name).open() as file:
            assert {row["match"] for row in csv.DictReader(file)} == {"params"}


def test_unequal_matches_apart(tmp_path: Path) -> None:
    """What was matched differently is never compared."""
    for mode in (None, "params"):
        write_arm(tmp_path / "both", "multi_head", BASE, settings=matched(mode))
        write_arm(tmp_path / "both", "linear", [x + 1 for x in BASE], settings=matched(mode))
    report = analyse(tmp_path / "both")
    assert len(report.comparisons) == 2
    for c in report.comparisons:
        assert c.arm.settings.get("match") == c.baseline.settings.get("match")
    assert "never compared with another" in document(report).summary
    write_arm(tmp_path / "one", "multi_head", BASE)
    write_arm(tmp_path / "one", "linear", BASE, settings=matched("flops"))
    alone = analyse(tmp_path / "one")
    assert alone.comparisons == []
    assert any("without a baseline of the same match" in remark for remark in alone.design.remarks)


def test_a_budget_of_another_than_the_baseline_is_told(tmp_path: Path) -> None:
    for variant in ("multi_head", "linear"):
        write_arm(tmp_path, variant, BASE, settings={"match": "state", "match_to": "gqa"})
    text = str(document(analyse(tmp_path)))
    assert "brought to the budget of gqa, and are compared with multi_head" in text


@pytest.mark.slow
def test_one_command_tunes_and_another_takes_the_rates(tmp_path: Path) -> None:
    corpus = tmp_path / "text.txt"
    corpus.write_text("to be or not to be, that is the question. " * 200)
    tiny = ["data=file", f"data.path={corpus}", "tokenizer=byte", "model.n_layers=1", "model.d_model=16"]
    tiny += ["model.n_heads=2", "model.context=16", "batch_size=2", "trainer.max_steps=8", "trainer.threads=1"]
    tiny += ["sample.steps=0", f"paths.cache={tmp_path / 'cache'}"]
    folder = tmp_path / "runs" / "tuning"
    start = [sys.executable, "-c", "from attnlab.cli import main; main()"]
    words = [
        "tune",
        f"experiment={folder}",
        "rates=1e-2,3e-2,1e-1,3e-1",
        "seeds=100-102",
        "extend=1",
        "attention=multi_head,linear",
    ]
    done = subprocess.run([*start, *words, *tiny], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "cannot tell" not in done.stdout and not (folder / "report").exists(), "tuning seeds judge nothing"
    found = entries(folder)
    assert set(found) == {"multi_head", "linear"}
    n_rates = len(found["linear"]["curve"])  # type: ignore[arg-type]
    assert len(list(folder.glob("*/seed_*/summary.json"))) == 3 * 2 * n_rates >= 24
    final = [sys.executable, str(ROOT / "train.py"), "-m", f"tuned={folder}", "attention=multi_head,linear", "seed=0,1"]
    final += [f"paths.runs={tmp_path / 'runs'}", "experiment_name=final", *tiny]
    done = subprocess.run(final, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = analyse(tmp_path / "runs" / "final")
    for c in report.design.arms:
        assert c.lr_curve is not None and c.lr_curve.chosen == found[c.variant]["lr"]
        assert c.lr_curve.remarks == found[c.variant]["remarks"], "what the choice said of itself, and no more"
