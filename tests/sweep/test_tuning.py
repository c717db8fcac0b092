"""A learning rate per variant: the fit, the widened grid, the seeds that may not judge, and what the report says."""

import csv
import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import yaml
from tests.analysis.folders import write_arm, write_run
from tests.training.launch import ROOT

from attnlab.analysis.analyse import analyse
from attnlab.analysis.reading import read_experiment
from attnlab.analysis.report.content import document
from attnlab.analysis.report.document import Table
from attnlab.analysis.report.publish import write
from attnlab.analysis.tuned_variants import read_tuning
from attnlab.config.compose import compose_config
from attnlab.config.tuned_settings import with_tuned_settings
from attnlab.errors import AttnlabError, Stopped, UsageError
from attnlab.store.experiment_folder import ExperimentFolder
from attnlab.sweep import command, tuning

RATES = (3e-4, 1e-3, 3e-3, 1e-2)
SEEDS = (100, 101)
FOUR = "optimizer.lr=1e-3,2e-3,3e-3,4e-3"
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
    """What `attnlab tune` reads or, its sweeps being made up (`runs_are`), runs at one budget of 40 steps."""
    settings = {"metric": "val/loss", "over": "", "seeds": "100,101", "n_jobs": None, "overrides": ()}
    budget = tuning.Budget(0, (40,), 2, 2)._replace(**changes.pop("budget", {}))  # type: ignore[arg-type]
    tuning.tune(folder, budget=budget, **{**settings, **changes})  # type: ignore[arg-type]
    return entries(folder)


def chosen(entry: dict[str, object]) -> float:
    return entry["chosen"]["optimizer.lr"]  # type: ignore[index]


def test_lowest_point_of_parabola(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The lowest point of a known parabola is found."""
    write_grid(tmp_path / "t", {"multi_head": 1.3e-3, "linear": 2.4e-3})
    found = tune(tmp_path / "t")
    assert "8 settings of 2 variants were tried, in 16 runs" in capsys.readouterr().out
    assert chosen(found["multi_head"]) == pytest.approx(1.3e-3, rel=5e-3)
    assert chosen(found["linear"]) == pytest.approx(2.4e-3, rel=5e-3)
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
    assert chosen(entry) == entry["best"] == 2e-3
    assert "not near the best rate" in str(entry["remarks"])


Asked = list[tuple[int, dict[str, list[dict[str, float]]]]]


def runs_are(monkeypatch: pytest.MonkeyPatch, loss: Callable[[str, dict[str, float], int], float]) -> Asked:
    """Make runs up instead of training them, by variant, settings and steps; returns what was asked for."""
    asked: Asked = []
    written: dict[str, Path] = {}

    def sweep(self: tuning.Rounds, wanted: Mapping[str, Sequence[dict[str, float]]], steps: int) -> None:
        asked.append((steps, {arm: list(trials) for arm, trials in wanted.items()}))
        planned = []
        for arm, trials in wanted.items():
            variant = str(self.arms[arm]["attention"])
            for settings in trials:
                for seed in self.seeds:
                    flat = {**settings, "trainer.max_steps": steps}
                    value = loss(variant, settings, steps) + 0.01 * seed
                    name = f"{self.folder} {variant} {seed} {flat}"
                    if name not in written:
                        written[name] = write_run(self.folder, variant, seed, value, settings=flat)
                    run = written[name]
                    folder = f"{run.parent.name}/{run.name}"
                    levels = {"trial": f"{arm}{tuning.BETWEEN}{settings}"}
                    planned.append({"folder": folder, "levels": levels, "seed": seed, "status": "finished"})
        ExperimentFolder(self.folder).manifest.plan(planned, {})

    monkeypatch.setattr(tuning.Rounds, "sweep", sweep)
    return asked


BOTH = ("attention=multi_head,linear",)
LOWEST = {"multi_head": 1e-3, "linear": 0.02}


def test_grid_widens_at_edge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The grid is widened for all where the best of one lies at its edge."""
    asked = runs_are(monkeypatch, lambda variant, settings, _: bowl(settings["optimizer.lr"], LOWEST[variant]))
    asked_for = {"over": "optimizer.lr=2.5e-4,5e-4,1e-3,2e-3", "overrides": BOTH}
    found = tune(tmp_path / "t", **asked_for)
    rates = [[each["optimizer.lr"] for each in trials["attention=linear"]] for _, trials in asked]
    assert rates == [[2.5e-4, 5e-4, 1e-3, 2e-3], [4e-3], [8e-3]]
    assert found["linear"]["edge"] == "high" and found["multi_head"]["edge"] is None
    assert "optimizer.lr=0.016" in capsys.readouterr().out
    assert len(found["multi_head"]["curve"]) == len(found["linear"]["curve"]) == 6  # type: ignore[arg-type]
    asked.clear()
    tune(tmp_path / "u", **asked_for, budget={"extend": 0})
    assert len(asked) == 1


def test_halving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The better half of each variant's settings goes on; what wins at one budget and not at the next is told."""

    def loss(variant: str, settings: dict[str, float], steps: int) -> float:
        decay = settings["optimizer.weight_decay"]
        late = -0.5 if (variant, decay, steps) == ("linear", 0.1, 40) else 0.0  # what pays late only
        return bowl(settings["optimizer.lr"], LOWEST[variant]) + decay + late + 0.05 * (variant == "linear")

    asked = runs_are(monkeypatch, loss)
    over = "optimizer.lr=1e-3,4e-3,2e-2,optimizer.weight_decay=0,0.1"
    asked_for = {"over": over, "overrides": BOTH, "budget": {"steps": (10, 20, 40), "extend": 0}}
    found = tune(tmp_path / "t", **asked_for)
    sizes = [(steps, {len(trials) for trials in wanted.values()}) for steps, wanted in asked]
    assert sizes == [(10, {6}), (20, {3}), (40, {2})]
    gone_on = [{each["optimizer.lr"] for each in trials["attention=multi_head"]} for _, trials in asked]
    assert gone_on == [{1e-3, 4e-3, 2e-2}, {1e-3, 4e-3}, {1e-3}]
    assert found["multi_head"]["chosen"] == {"optimizer.lr": 1e-3, "optimizer.weight_decay": 0}
    assert found["linear"]["chosen"] == {"optimizer.lr": 2e-2, "optimizer.weight_decay": 0.1}
    assert [found[v]["winner"] for v in ("multi_head", "linear")] == [
        "same winner",
        "another: optimizer.lr=0.02 optimizer.weight_decay=0 at 20 steps",
    ]
    assert [found[v]["tried"] for v in ("multi_head", "linear")] == [6, 6]
    told = capsys.readouterr().out
    assert "12 settings of 2 variants were tried, in 44 runs" in told
    assert "the order of the variants depends on the budget: multi_head, linear at 20 steps" in told
    first = list(asked)
    asked.clear()
    assert tune(tmp_path / "t", **asked_for) == found and asked == first, "the same command asks for the same runs"
    tuned = f"tuned={tmp_path / 't'}"
    config, _ = with_tuned_settings(compose_config([tuned]), "linear")
    assert (config.optimizer["lr"], config.optimizer["weight_decay"]) == (2e-2, 0.1)
    with pytest.raises(UsageError, match=r"chooses optimizer\.weight_decay: leave one of them out"):
        compose_config([tuned, "optimizer.weight_decay=0"])


def test_one_more_setting_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch, or a wider grid, that brings one setting of one variant is run; one that brings none is no sweep."""
    names: list[list[str]] = []
    monkeypatch.setattr(tuning, "train_design", lambda *asked, **_: names.append(list(asked[2]["axes"]["trial"])))
    rounds = tuning.Rounds(tmp_path, "val/loss", True, ("optimizer.lr",), SEEDS, {"gqa": {}}, (), None, {})
    for rates in ([1e-3, 2e-3], [4e-3], [4e-3], []):
        rounds.sweep({"gqa": [{"optimizer.lr": rate} for rate in rates]}, 10)
    first = ["gqa | optimizer.lr=0.001", "gqa | optimizer.lr=0.002"]
    assert names == [first, [*first, "gqa | optimizer.lr=0.004"]]


def test_tuned_keys_are_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report of final runs states what was tuned, with how many settings, and compares across it."""
    runs_are(monkeypatch, lambda _, settings, steps: 3 - settings["optimizer.weight_decay"] + settings["optimizer.lr"])
    over = "optimizer.lr=1e-3,4e-3,optimizer.weight_decay=0,0.1"
    tune(tmp_path / "t", over=over, overrides=BOTH, budget={"steps": (20, 40), "extend": 0})
    for variant, decay in (("multi_head", 0.1), ("linear", 0.2)):
        for seed in range(4):
            tuned = {"optimizer.lr": 1e-3, "optimizer.weight_decay": decay, "tuned": str(tmp_path / "t")}
            write_run(tmp_path / "f", variant, seed, BASE[seed] + decay, settings=tuned)
    report = analyse(tmp_path / "f")
    assert [c.n for c in report.comparisons] == [4]
    text = str(document(report))
    assert "what else is named above (optimizer.weight_decay) was tuned for each variant (4 settings tried)" in text
    assert "optimizer.weight_decay=0.1" in text and "same winner" in text
    remarks = next(c.lr_curve.remarks for c in report.design.arms if c.variant == "linear" and c.lr_curve)
    assert any("optimizer.weight_decay" in remark for remark in remarks), "the final runs took another"


def test_no_search_beyond_divergence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beyond a rate that diverged nothing is sought."""
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
    with pytest.raises(UsageError, match="holds no variant at several settings of"):
        tune(tmp_path / "u")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"over": "optimizer.lr=1e-3,2e-3,3e-3"}, "must name at least 4 rates"),
        ({"over": "optimizer.lr=1e-3,2e-3,3e-3,-2"}, r"optimizer.lr must be numbers above 0"),
        ({"over": "1e-3"}, r"over \(1e-3\) must begin with a key"),
        ({"over": "optimizer.lr=2..1"}, "must be one range from a smaller number to a larger one"),
        ({"over": "optimizer.lr=1e-3..1e-2,1"}, "must be one range from a smaller number to a larger one"),
        ({"over": "optimizer.lr=1e-3,,2"}, "must be values or a range"),
        ({"over": "optimizer.grad_clip=1,1.0"}, "names a value twice"),
        ({"over": "optimizer.grad_clip=1,2,optimizer.grad_clip=3"}, "names optimizer.grad_clip twice"),
        ({"over": "optimizer.grad_clip=1"}, "must name two settings or more"),
        ({"over": "attention/mask=causal,window"}, "attention/mask chooses a file; tune a value"),
        ({"over": "trainer.max_steps=10,20"}, r"leave trainer.max_steps out; budgets= says it"),
        ({"over": f"{FOUR}", "seeds": "a"}, r"seeds \(a\) must be integers"),
        ({"over": f"{FOUR}", "seeds": "3-1"}, r"seeds \(3-1\) must be integers"),
        ({"over": f"{FOUR}", "seeds": "0-1000000000000"}, r"seeds \(0-1000000000000\) must be integers"),
        ({"over": f"{FOUR}", "budget": {"steps": (4, 2)}}, r"budgets \(4,2\) must be steps that rise"),
        ({"overrides": ("trainer.max_steps=5",)}, r"budgets \(40\) says how many steps: leave trainer.max_steps out"),
        ({"overrides": ("seed=1",)}, "leave seed out; seeds= says it"),
        ({"overrides": ("+optimizer.lr=1",)}, r"optimizer.lr is tuned .*: leave it out of the settings"),
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
    config, told = with_tuned_settings(compose_config([tuned]), "linear")
    assert config.optimizer["lr"] == told["chosen"]["optimizer.lr"] == pytest.approx(2.4e-3, rel=5e-3)
    assert told["seeds"] == list(SEEDS) and len(told["sha256"]) == 64
    for words, variant, message in (
        (["seed=101"], "linear", r"seed \(101\) is one of the seeds that chose the settings \(100, 101 in"),
        (["streams.data=100"], "linear", r"streams.data \(100\) is one of the seeds"),
        ([], "gqa", r"holds nothing for gqa \(it has: linear, multi_head\)"),
        (["optimizer=muon"], "linear", "was made with AdamW"),
    ):
        with pytest.raises(UsageError, match=message):
            with_tuned_settings(compose_config([tuned, *words]), variant)
    with pytest.raises(UsageError, match=r"chooses optimizer\.lr: leave one of them out"):
        compose_config([tuned, "optimizer.lr=1e-3"])
    with pytest.raises(UsageError, match=r"tuned \(nowhere\) must be the folder of an experiment with a tuned.yaml"):
        with_tuned_settings(compose_config(["tuned=nowhere"]), "linear")
    file = tmp_path / "t" / "tuned.yaml"
    file.write_text(file.read_text().replace("optimizer.lr:", "optimizer.rate.of:"))
    with pytest.raises(UsageError, match=r"chooses optimizer\.rate\.of, which this config does not have"):
        with_tuned_settings(compose_config([tuned]), "linear")
    file.write_text("variants: [1]")
    with pytest.raises(UsageError, match="must hold a list variants"):
        with_tuned_settings(compose_config([tuned]), "linear")


def test_a_file_of_somebody_else(tmp_path: Path) -> None:
    """It chooses numbers and words: no class, no package, no folder, and nothing that takes memory or time to read."""
    file, optimizer = tmp_path / "tuned.yaml", "attnlab.training.optimizer.AdamW"
    entry = {"variant": "multi_head", "settings": {}, "optimizer": optimizer, "seeds": [100]}
    tuned = f"tuned={tmp_path}"

    def chosen(**changes: object) -> str:
        return yaml.safe_dump({"variants": [{**entry, "chosen": {"optimizer.lr": 1e-3}, **changes}]})

    file.write_text(chosen())
    assert with_tuned_settings(compose_config([tuned]), "multi_head")[0].optimizer["lr"] == 1e-3
    for key, value in {
        "allow_targets": ["os"],
        "attention._target_": "os.system",
        "attention.mask": {"_target_": "os.system"},
        "paths.runs": "elsewhere",
        "logger.x": "y",
        "model.d_model": [1],
    }.items():
        file.write_text(chosen(chosen={key: value}))
        with pytest.raises(UsageError, match=f"chooses {key}: it may choose numbers and words"):
            compose_config([tuned])
    bomb = "".join(
        f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
    )
    for text in (
        chosen(variant=["x"]),
        chosen(optimizer=3),
        f"a: &a [x, x]\n{bomb}variants: *h",
        "variants: " + "[" * 9999,
    ):
        file.write_text(text)
        with pytest.raises(UsageError, match=r"must hold a list variants|is not YAML"):
            compose_config([tuned])
    file.unlink()
    file.symlink_to("/dev/zero")
    with pytest.raises(UsageError, match="must be the folder of an experiment"):
        compose_config([tuned])


def test_runs_without_a_rate_are_no_trials(tmp_path: Path) -> None:
    """Of somebody else's folder, a run may lack what places it on a curve."""
    write_grid(tmp_path / "t", {"multi_head": 1.3e-3})
    write_run(tmp_path / "t", "multi_head", 100, 2.0, settings={"optimizer.lr": "x"})
    write_run(tmp_path / "t", "linear", 100, 2.0, settings={"trainer.max_steps": [1]})
    experiment = read_experiment(tmp_path / "t", "val/loss")
    assert [entry.variant for entry in read_tuning(experiment, True, 0.05)] == ["multi_head"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rate", [0, -1.0, math.inf, math.nan, 1e308, 5e-324])
def test_rates_without_a_logarithm(tmp_path: Path, capsys: pytest.CaptureFixture[str], rate: float) -> None:
    """A run at such a rate counts as damaged, and one alone at another budget is no grid that could be widened."""
    write_grid(tmp_path / "t", {"multi_head": 1.3e-3})
    write_run(tmp_path / "t", "multi_head", 100, 2.0, settings={"optimizer.lr": rate})
    write_run(tmp_path / "t", "multi_head", 100, 2.0, settings={"trainer.max_steps": math.inf, "optimizer.lr": 0.1})
    for seed in SEEDS:
        write_run(tmp_path / "t", "multi_head", seed, 2.5, settings={"optimizer.lr": 1e-3, "trainer.max_steps": 1})
    tuning.tune(tmp_path / "t", "val/loss", "", "100,101", tuning.Budget(0, (40,), 2, 2), None, ())
    assert chosen(entries(tmp_path / "t")["multi_head"]) == 1e-3 and "4 settings" in capsys.readouterr().out
    damaged = {run.reason for run in read_experiment(tmp_path / "t").runs if run.reason}
    assert damaged == {f"config.yaml: optimizer.lr is {rate}", "config.yaml: trainer.max_steps is 'inf'"}


def test_variants_of_one_name(tmp_path: Path) -> None:
    """The settings tell variants of one name apart."""
    for width, at in ((64, 1e-3), (128, 3e-3)):
        for rate in RATES:
            settings = {"optimizer.lr": rate, "model.d_model": width}
            write_run(tmp_path / "t", "multi_head", 100, bowl(rate, at), settings=settings)
    tune(tmp_path / "t")
    words = f"tuned={tmp_path / 't'}"
    for width, at in ((64, 1e-3), (128, 3e-3)):
        config, _ = with_tuned_settings(compose_config([words, f"model.d_model={width}"]), "multi_head")
        assert config.optimizer["lr"] == pytest.approx(at, rel=1e-2)
    with pytest.raises(UsageError, match=r"at other settings than these: model\.d_model=\d+, model\.d_model=\d+$"):
        with_tuned_settings(compose_config([words, "model.d_model=32"]), "multi_head")


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
    for words in ("sensitivity", str(tmp_path / "t"), "100, 101", "tuned for each variant (4 settings tried)"):
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


def test_other_budget_than_baseline(tmp_path: Path) -> None:
    """A budget of another than the baseline is told."""
    for variant in ("multi_head", "linear"):
        write_arm(tmp_path, variant, BASE, settings={"match": "state", "match_to": "gqa"})
    text = str(document(analyse(tmp_path)))
    assert "brought to the budget of gqa, and are compared with multi_head" in text


@pytest.mark.slow
def test_tune_then_train(tmp_path: Path) -> None:
    """One command tunes and another takes the rates."""
    corpus = tmp_path / "text.txt"
    corpus.write_text("to be or not to be, that is the question. " * 200)
    tiny = ["data=file", f"data.path={corpus}", "tokenizer=byte", "model.n_layers=1", "model.d_model=16"]
    tiny += ["model.n_heads=2", "model.context=16", "batch_size=2", "trainer.threads=1"]
    tiny += ["sample.steps=0", f"paths.cache={tmp_path / 'cache'}"]
    folder = tmp_path / "runs" / "tuning"
    start = [sys.executable, "-c", "from attnlab.cli import main; main()"]
    words = [
        "tune",
        f"experiment={folder}",
        "over=optimizer.lr=1e-2,3e-2,1e-1,3e-1",
        "seeds=100-102",
        "extend=1",
        "budgets=8",
        "n_jobs=2",
        "attention=multi_head,linear",
    ]
    done = subprocess.run([*start, *words, *tiny], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "cannot tell" not in done.stdout and not (folder / "report").exists(), "tuning seeds judge nothing"
    found = entries(folder)
    assert set(found) == {"multi_head", "linear"}
    n_rates = len(found["linear"]["curve"])  # type: ignore[arg-type]
    assert len(list(folder.glob("*/seed_*/summary.json"))) == 3 * 2 * n_rates >= 24
    final = [
        sys.executable,
        str(ROOT / "train.py"),
        "-m",
        f"tuned={folder}",
        "trainer.max_steps=8",
        "attention=multi_head,linear",
        "seed=0,1",
    ]
    final += [f"paths.runs={tmp_path / 'runs'}", "experiment_name=final", *tiny]
    done = subprocess.run(final, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = analyse(tmp_path / "runs" / "final")
    for c in report.design.arms:
        assert c.lr_curve is not None and c.lr_curve.chosen == chosen(found[c.variant])
        assert c.lr_curve.remarks == found[c.variant]["remarks"], "what the choice said of itself, and no more"


def test_train_design(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep that runs out of time is stopped, as by Ctrl-C, and goes on later; how others end is told apart."""
    ends = {"2": UsageError, "3": AttnlabError, "130": Stopped}
    fake = tmp_path / "fake.sh"
    monkeypatch.setattr(command.sys, "executable", str(fake))

    def train(script: str, seconds: float | None = None) -> bool:
        fake.write_text(f"#!/bin/bash\n{script}\n")
        fake.chmod(0o755)
        return command.train_design(tmp_path / "e", "d", {"seeds": 1}, ["a=b"], seconds=seconds)

    assert train("exit 0")
    with pytest.raises(AttnlabError, match="exit code 1"):  # the disk took no manifest, say
        train("exit 1")
    ExperimentFolder(tmp_path / "e").manifest.note({"folder": "a-1/seed_0", "status": "failed"})
    assert train("exit 1")
    for code, error in ends.items():
        with pytest.raises(error):
            train(f"exit {code}")
    assert not train("trap 'exit 130' INT; while true; do sleep 0.05; done", seconds=0.3)
    assert yaml.safe_load((tmp_path / "e" / "designs" / "sweep" / "d.yaml").read_text()) == {"seeds": 1}
