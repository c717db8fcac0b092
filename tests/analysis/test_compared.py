"""What a report says was compared: every setting that differs, what was declared, and what can be compared at all."""

import csv
import hashlib
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.analysis.folders import write_arm, write_run

from attnlab.analysis.analyse import Report, analyse
from attnlab.analysis.cost_comparison import costs
from attnlab.analysis.report.content import document
from attnlab.analysis.report.publish import write
from attnlab.analysis.report.report_text import beside_the_table
from attnlab.analysis.report.tables import verdicts_table
from attnlab.analysis.settings import Options
from attnlab.errors import UsageError
from attnlab.store import preregistration
from attnlab.store.experiment_folder import ExperimentFolder
from attnlab.store.preregistration import Preregistration
from attnlab.sweep.executor import _first

BASE = [2.0, 2.1, 1.9]
WORSE = [2.3, 2.41, 2.19]


def page(report: Report, folder: Path) -> str:
    """The report as it is read."""
    write(report, document(report), folder / "report")
    return (folder / "report" / "report.md").read_text().replace("\\_", "_")


def two_sweeps(folder: Path, **settings: object) -> None:
    """A sweep, and a second one in the same experiment with other settings."""
    first = {"model.dropout": 0.0, "optimizer.weight_decay": 0.1}
    for name, finals in (("multi_head", BASE), ("linear", WORSE)):
        write_arm(folder, name, finals, settings=first)
        write_arm(folder, name, finals, settings={**first, **settings})


def test_hidden_settings_are_named(tmp_path: Path) -> None:
    """Of settings that change together, each is named, in the terminal and on the page."""
    two_sweeps(tmp_path, **{"model.dropout": 0.2, "optimizer.weight_decay": 0.0, "batch_size": 4})
    report = analyse(tmp_path)
    text = page(report, tmp_path)
    assert "Not varied: data, tokenizer, trainer." in text
    assert "Besides the variants, batch_size with model.dropout with optimizer.weight_decay differed." in text
    assert "batch_size changes together with model.dropout, optimizer.weight_decay" in beside_the_table(report)
    table = text.partition("## Settings that differ")[2].partition("## ")[0]
    rows = {line.split(" | ")[0].strip("| "): line for line in table.splitlines() if line.startswith("| ")}
    for key, value in (("batch_size", "4"), ("model.dropout", "0.2"), ("optimizer.weight_decay", "0")):
        assert f": {value}" in rows[key] and len(rows[key].split(" | ")) == 3
    assert (tmp_path / "report" / "settings.csv").read_text().count("optimizer.weight_decay") == 1


def test_settings_of_one_side(tmp_path: Path) -> None:
    """What differs between a variant and its baseline, though no name says so, is a remark beside its verdict."""
    write_arm(tmp_path, "multi_head", BASE, settings={"model.dropout": 0, "optimizer.weight_decay": 0.1})
    write_arm(tmp_path, "linear", WORSE, settings={"model.dropout": 0.2, "optimizer.weight_decay": 0.1})
    (found,) = analyse(tmp_path).comparisons
    assert "differs from the baseline in model.dropout (0.2, not 0), too" in found.remarks


def test_same_at_these_sizes(tmp_path: Path) -> None:
    """Where both sides compute one thing, the verdict is about noise and says so; not where only one is known to."""
    plain = {"computes": "multi_head"}
    write_arm(tmp_path, "multi_head", BASE, summary=plain)
    write_arm(tmp_path, "gqa", WORSE, summary=plain)
    write_arm(tmp_path, "linear", WORSE, summary={"computes": ["multi_head"]})
    found = {
        c.arm.label: "computes what the baseline does at these sizes" in c.remarks
        for c in analyse(tmp_path).comparisons
    }
    assert found == {"gqa": True, "linear": False}


def test_equal_settings_in_two_spellings(tmp_path: Path) -> None:
    """0 and 0.0 are one value, so nothing is said to differ."""
    write_arm(tmp_path, "multi_head", BASE, settings={"model.dropout": 0})
    write_arm(tmp_path, "linear", WORSE, settings={"model.dropout": 0.0})
    report = analyse(tmp_path)
    assert "Besides the variants" not in page(report, tmp_path)
    assert not any("differs" in remark for c in report.comparisons for remark in c.remarks)


def test_fixed_stream_is_a_setting(tmp_path: Path) -> None:
    """A stream that does not follow the seed is named like any other setting."""
    write_arm(tmp_path, "multi_head", BASE)
    for run in write_arm(tmp_path, "linear", WORSE):
        config = run / "config.yaml"
        seed = run.name.removeprefix("seed_")
        config.write_text(config.read_text().replace(f"init: {seed}", "init: 70"))
    (found,) = analyse(tmp_path).comparisons
    assert any("streams.init (70, not null)" in remark for remark in found.remarks)


def test_factors_that_change_together(tmp_path: Path) -> None:
    """An effect is that of all settings that change with its factor, and says so."""
    for dropout in (0.0, 0.2):
        for depth in (2, 4):
            settings = {"model.dropout": dropout, "optimizer.weight_decay": 0.1 - dropout / 2, "model.n_layers": depth}
            write_arm(tmp_path, "multi_head", [x + dropout + depth for x in BASE], settings=settings)
    label = "multi_head model.n_layers=2 model.dropout=0"
    effects = analyse(tmp_path, Options(baseline=label)).effects
    assert effects is not None and effects.together == {"model.dropout": ["optimizer.weight_decay"]}


def register(folder: Path, runs: list[str] | None) -> Preregistration:
    """What is preregistered of multi_head and linear, three seeds each."""
    registered = Preregistration("linear is worse", "multi_head", "val/loss", None, 0.05, [0, 1, 2], ["linear"], runs)
    preregistration.write(folder, registered)
    return registered


LATE = {"started": "2999-01-01T00:00:00+00:00"}


def arms(folder: Path, **settings: object) -> list[str]:
    """Both arms as a sweep leaves them; returns the runs as a preregistration names them."""
    runs = [
        run
        for name, finals in (("multi_head", BASE), ("linear", WORSE))
        for run in write_arm(folder, name, finals, settings=settings, summary=LATE)
    ]
    return [run.relative_to(folder).as_posix() for run in runs]


def deviations(folder: Path) -> list[str]:
    """The deviations from the preregistration of an experiment."""
    check = analyse(folder).preregistration
    assert check is not None
    return check.deviations


def test_preregistration_binds_configs(tmp_path: Path) -> None:
    """A second sweep with other settings was not preregistered, and its settings are named."""
    runs = arms(tmp_path / "trial")
    register(tmp_path / "e", runs)
    arms(tmp_path / "e")
    assert deviations(tmp_path / "e") == []
    assert "It binds the configs of 6 runs" in page(analyse(tmp_path / "e"), tmp_path / "e")
    others = arms(tmp_path / "e", **{"optimizer.weight_decay": 0, "model.dropout": 0.2})
    points = deviations(tmp_path / "e")
    assert len(points) == 2
    for point, folder in zip(sorted(points), sorted({name.partition("/")[0] for name in others}), strict=True):
        assert point.startswith("run with another config than ") and f"{folder} (seeds 0, 1, 2)" in point
        assert "optimizer.weight_decay 0, not None" in point and "model.dropout 0.2, not None" in point
    report = analyse(tmp_path / "e")
    assert "Deviations:" in page(report, tmp_path / "e")
    assert "deviations from the preregistration:" in beside_the_table(report)


def test_preregistered_run_is_missing(tmp_path: Path) -> None:
    """A preregistered run without a result, and a seed too many, are named."""
    runs = arms(tmp_path / "trial")
    register(tmp_path / "e", runs)
    arms(tmp_path / "e")
    lost = tmp_path / "e" / runs[4]
    (lost / "summary.json").unlink()
    extra = write_run(tmp_path / "e", "linear", 7, 2.0, summary=LATE)
    folder = lost.parent.name
    assert extra.parent.name == folder
    assert deviations(tmp_path / "e") == [
        f"seeds that were not preregistered: {folder} (seed 7)",
        f"preregistered, and without a result: {folder} (seed 1; unfinished)",
    ]
    shutil.rmtree(lost)
    assert f"preregistered, and without a result: {folder} (seed 1; not there)" in deviations(tmp_path / "e")


def test_second_preregistration(tmp_path: Path) -> None:
    """The same words for other configs are another preregistration; the same configs are not."""
    runs = arms(tmp_path / "trial")
    registered = register(tmp_path / "e", runs)
    assert preregistration.write(tmp_path / "e", registered) == preregistration.write(tmp_path / "e", registered)
    with pytest.raises(UsageError, match=r"holds something else \(other runs: not linear-0123abcd \(seed 0\)"):
        preregistration.write(tmp_path / "e", registered._replace(runs=[*runs, "linear-0123abcd/seed_0"]))


def test_old_preregistration(tmp_path: Path) -> None:
    """A preregistration from before runs were named is read, its hash holds, and two configs of one variant deviate."""
    content: dict[str, object] = {
        "created": "2026-01-01T00:00:00+00:00",
        "hypothesis": "linear is worse",
        "baseline": "multi_head",
    }
    content |= {"metric": "val/loss", "margin": None, "alpha": 0.05, "seeds": [0, 1, 2], "family": ["linear"]}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    arms(tmp_path)
    ExperimentFolder(tmp_path).preregistration.write_text(json.dumps({"sha256": digest, **content}))
    assert deviations(tmp_path) == []
    assert "binds none of them" in page(analyse(tmp_path), tmp_path)
    arms(tmp_path, **{"optimizer.weight_decay": 0})
    assert [point[:26] for point in deviations(tmp_path)] == [
        "linear ran with 2 configs ",
        "multi_head ran with 2 conf",
    ]


def plain(folder: Path, margin: float | None = None) -> None:
    """Three arms without a preregistration, whose configs say by what their report goes."""
    report = {"metric": "val/loss", "baseline": None, "margin": margin, "alpha": 0.05}
    for name in ("multi_head", "a", "b"):
        write_arm(folder, name, BASE if name == "multi_head" else WORSE, settings={"report": report})


@pytest.mark.parametrize(
    ("options", "mark"),
    [
        (Options(margin=9.0), "margin 9 typed after the fact"),
        (Options(alpha=0.4), "alpha 0.4 typed after the fact"),
        (Options(family=("a",)), "family a typed after the fact"),
        (Options(baseline="b"), "baseline b typed after the fact"),
        (Options(metric="val/other_loss"), "metric val/other_loss typed after the fact"),
    ],
)
def test_typed_after_the_fact(tmp_path: Path, options: Options, mark: str) -> None:
    """What was typed and not declared stands beside what was, in each form, and in the verdict's own line."""
    plain(tmp_path)
    for run in tmp_path.glob("*/seed_*"):
        rows = (run / "metrics.csv").read_text()
        (run / "metrics.csv").write_text(rows + rows.partition("\n")[2].replace("val/loss", "val/other_loss"))
    assert not any(c.marks for c in analyse(tmp_path).comparisons)
    report = analyse(tmp_path, options)
    assert all(c.marks == (f"exploratory: {mark}",) for c in report.comparisons)
    assert mark in "".join(row[-1] for row in verdicts_table(report.comparisons).rows)
    name, used = mark.split(" ")[:2]
    (told,) = [text for text in beside_the_table(report) if text.startswith(f"{name}: declared ")]
    assert told.endswith(f"(the config of the first run), used {used}: typed after the fact")
    text = page(report, tmp_path)
    assert f"(exploratory: {mark})" in text
    assert f"| {used} | typed after the fact |" in text.partition("## Declared and used")[2].partition("## ")[0]
    verdicts = list(csv.DictReader((tmp_path / "report" / "verdicts.csv").read_text().splitlines()))
    assert all(mark in row["remarks"] for row in verdicts)


def test_solved_typed_after_the_fact(tmp_path: Path) -> None:
    """From where a task counts as solved is declared by the task; another threshold is exploratory, and is repeated."""
    for name, shares in (("multi_head", [0.95, 0.92, 0.97]), ("a", [0.6, 0.7, 0.8])):
        write_arm(tmp_path, name, shares, metric="val/accuracy", summary={"solved_at": 0.9})
    assert not any(c.marks for c in analyse(tmp_path, Options(solved=0.9)).comparisons)
    report = analyse(tmp_path, Options(solved=0.5))
    assert [c.marks for c in report.comparisons] == [("exploratory: solved 0.5 typed after the fact",)]
    assert "solved: declared 0.9 (the task), used 0.5: typed after the fact" in beside_the_table(report)
    repeated = [line for line in page(report, tmp_path).splitlines() if "attnlab report" in line]
    assert any(" solved=0.5" in line for line in repeated)


def test_typed_as_declared(tmp_path: Path) -> None:
    """What is typed as it was declared is no news."""
    plain(tmp_path, margin=0.1)
    (tmp_path / "manifest.json").write_text(json.dumps({"baseline": "multi_head", "margin": 0.1, "runs": []}))
    options = Options("multi_head", "val/loss", 0.1, 0.05, ("a", "b"))
    assert not any(c.marks for c in analyse(tmp_path, options).comparisons)


def test_declared_by_a_later_sweep(tmp_path: Path) -> None:
    """A margin that a second sweep declares, after there were results, is no declaration for them."""
    plain(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"baseline": "multi_head", "margin": 9, "runs": []}))
    report = analyse(tmp_path)
    assert report.rules.margin == 9
    assert {c.marks for c in report.comparisons} == {("exploratory: margin 9 declared after the first result",)}


def test_manifest_keeps_the_first_declaration() -> None:
    """What was declared before the first result stays; before that, it may be changed."""
    about = {"metric": "val/loss", "baseline": "multi_head", "margin": 1.0, "alpha": 0.05}
    first = {**about, "margin": None}
    none, one = [{"status": "planned"}], [{"status": "finished"}]
    assert _first({"runs": []}, [], about) == about
    assert _first({"first": first, "runs": none}, [], about) == about
    assert _first({"first": first, "runs": one}, [], about) == first
    assert _first({**first, "runs": one}, [], about) == first  # written before there was such a key


def texts(folder: Path, **summaries: dict[str, object]) -> None:
    """One arm of the baseline for each of these summaries; in nats the second looks better, in bits per byte worse."""
    for (name, summary), nats, bits in zip(summaries.items(), (3.0, 2.0, 1.0), (1.0, 2.0, 3.0), strict=False):
        for seed in range(6):
            content = {"val_bits_per_byte": bits + bits * seed**2 / 100, **summary}
            settings = {"tokenizer._target_": f"t.{name}", "data.val_fraction": 0.1}
            run = write_run(folder, "multi_head", seed, nats + seed**2 / 100, settings=settings, summary=content)
            rows = (run / "metrics.csv").read_text()
            (run / "metrics.csv").write_text(f"{rows}40,val/bits_per_byte,{bits + bits * seed**2 / 100}\n")


def test_other_tokens_are_compared_in_bytes(tmp_path: Path) -> None:
    """Over tokenizers of one text bits per byte decide, whichever way the losses point; the margin was one of nats."""
    texts(tmp_path, BPE={"tokenizer_sha256": "1"}, Bytes={"tokenizer_sha256": "2"}, Char={"tokenizer_sha256": "3"})
    report = analyse(tmp_path, Options(baseline="multi_head tokenizer._target_=t.BPE"))
    assert report.experiment.metric == "val/bits_per_byte"
    assert [(c.verdict, c.mean is not None and c.mean > 0) for c in report.comparisons] == [("worse", True)] * 2
    assert any(text.startswith("metric: declared val/loss") for text in beside_the_table(report))
    assert any("losses of different tokenizers" in mark for c in report.comparisons for mark in c.marks)


def test_other_tokens_without_bytes(tmp_path: Path) -> None:
    """Where bits per byte are not known, nothing is compared over tokenizers, and the reason is said."""
    texts(tmp_path, BPE={"tokenizer_sha256": "1", "val_bits_per_byte": None}, Bytes={"tokenizer_sha256": "2"})
    report = analyse(tmp_path, Options(baseline="multi_head tokenizer._target_=t.BPE"))
    assert report.comparisons == []
    assert any("in other tokens is not compared" in remark for remark in report.design.remarks)


@pytest.mark.parametrize(
    ("other", "compared"),
    [
        ({"data_sha256": "2"}, False),
        ({"data_sha256": "2", "tokenizer_sha256": "2"}, False),
        ({"data_sha256": "2", "val_sha256": "v"}, True),  # the same validation text, other text to train on
        ({"data_sha256": "2", "val_sha256": "w"}, False),
        ({"val_sha256": "w"}, False),
    ],
)
def test_other_texts_are_not_compared(tmp_path: Path, other: dict[str, object], compared: bool) -> None:
    """Losses on other validation texts, or on other tasks, are never compared."""
    one: dict[str, object] = {
        "data_sha256": "1",
        "tokenizer_sha256": "1",
        **({"val_sha256": "v"} if "val_sha256" in other else {}),
    }
    texts(tmp_path, One=one, Other={**one, **other})
    report = analyse(tmp_path, Options(baseline="multi_head tokenizer._target_=t.One"))
    assert bool(report.comparisons) == compared
    assert compared == (not any("on another text" in remark for remark in report.design.remarks))
    assert "Verdicts" in page(report, tmp_path)


def test_mixed_versions_stand_in_the_verdict(tmp_path: Path) -> None:
    """Runs of several versions of a package are compared with that beside the word; a commit says nothing more where
    each run's code is recorded."""
    versions = {"attnlab": "1", "torch": "2.12"}
    write_arm(tmp_path, "multi_head", BASE, summary={"versions": versions})
    write_arm(tmp_path, "linear", WORSE, summary={"versions": {**versions, "torch": "2.13"}, "git_commit": "def"})
    report = analyse(tmp_path)
    assert [c.marks[0].partition(": ")[2] for c in report.comparisons] == ["torch 2.13 and 2.12"]
    assert "torch 2.13 and 2.12" in verdicts_table(report.comparisons).rows[0][-1]


def cost_cells(folder: Path) -> dict[str, str]:
    """The cost of the one variant of an experiment, by column."""
    (found,) = [cost for cost in costs(analyse(folder)) if cost.verdict != "baseline"]
    return dict(zip(found.columns, found.cells, strict=True))


def speeds(folder: Path, name: str, speed: list[float], session: str = "s", workers: int = 2) -> None:
    """An arm whose runs were measured: tokens/s, and memory in proportion."""
    for seed, x in enumerate(speed):
        beside = {"session": session, "workers": workers, "load": [1.5, 2.0], "others_cpu": 0.25}
        summary = {"tokens_per_second": x, "run_memory_bytes": int(1e6 * x), "beside": beside}
        write_run(folder, name, seed, 2.0 + seed / 100, summary=summary)


def test_costs_of_identical_variants_cannot_be_told(tmp_path: Path) -> None:
    """Noise of a busy machine is an interval around 1, never a percentage."""
    noise = np.random.default_rng(3).normal(0, 0.15, size=(2, 5))
    speeds(tmp_path, "multi_head", [100 * math.exp(x) for x in noise[0]])
    speeds(tmp_path, "twin", [100 * math.exp(x) for x in noise[1]])
    cells = cost_cells(tmp_path)
    for name in ("tokens/s", "peak memory of the run"):
        assert " ± " in cells[name] and "(cannot tell: " in cells[name] and "%" not in cells[name]
    assert cells["parameters"] == "1000 (+0.0 %)"  # counted, not measured
    text = page(analyse(tmp_path), tmp_path)
    assert (
        "2 at a time; load at the start 1.5 to 1.5; other processes, further runs among them, took 25 to 25 %" in text
    )


def test_cost_intervals_hold_the_ratio(tmp_path: Path) -> None:
    """A cost that is double in every pair is found, with an interval of the ratio; other commands are no pairs."""
    base = [100.0, 110.0, 95.0, 104.0, 99.0]
    speeds(tmp_path / "a", "multi_head", base)
    speeds(tmp_path / "a", "slow", [0.5 * x * (1 + i / 100) for i, x in enumerate(base)])
    words = cost_cells(tmp_path / "a")["tokens/s"].partition("(")[2]
    low, high = (float(x) for x in words.removesuffix(" times)").split(" to "))
    assert low < 0.51 < high < 0.6 and low > 0.4
    for i, changes in enumerate(({"session": "t"}, {"workers": 1})):
        speeds(tmp_path / str(i), "multi_head", base)
        speeds(tmp_path / str(i), "slow", base, **changes)  # type: ignore[arg-type]
        assert cost_cells(tmp_path / str(i))["tokens/s"].endswith("(not measured side by side)")


def test_summary_of_wrong_types(tmp_path: Path) -> None:
    """Whatever a field of one run's summary.json holds, the report of the others is made."""
    write_arm(tmp_path, "multi_head", BASE)
    extra: dict[str, object] = {"match": {}, "beside": {}, "versions": {}, "typed": {}, "val_sha256": "v"}
    run = write_arm(tmp_path, "linear", WORSE, summary=extra)[0]
    good = json.loads((run / "summary.json").read_text())
    wrong: list[object] = ["x", [], {"a": 1}, -1]
    for i, key in enumerate(good):
        (run / "summary.json").write_text(json.dumps({**good, key: wrong[i % len(wrong)]}))
        assert document(analyse(tmp_path)).sections, key


def test_metrics_looked_at(tmp_path: Path) -> None:
    """A metric that nobody declared is counted with all that were looked at; a declared one is not."""
    for name, loss in (("multi_head", 2.0), ("linear", 3.0)):
        for path in write_arm(tmp_path, name, [loss + 0.01 * seed for seed in range(7)]):
            with (path / "metrics.csv").open("a") as file:
                file.write("".join(f"40,val/{other}_loss,{loss}\n" for other in "ab"))
    plain = analyse(tmp_path)
    assert (plain.rules.metrics, plain.looks.metrics) == (1, ("val/loss",))
    assert analyse(tmp_path, Options(metric="val/a_loss")).rules.metrics == 2
    again = analyse(tmp_path, Options(metric="val/b_loss"))
    assert again.rules.metrics == analyse(tmp_path, Options(metric="val/b_loss")).rules.metrics == 3
    assert "3 metrics were looked at (val/loss, val/a_loss, val/b_loss)" in str(document(again))
    assert analyse(tmp_path).rules.metrics == 3  # it was not declared either
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "first": {"metric": "val/loss"}}))
    assert analyse(tmp_path).rules.metrics == 1


@pytest.mark.parametrize("metric", ["val/loss:steps_to_2.45", "val/loss:area"])
def test_course_of_a_metric(tmp_path: Path, metric: str) -> None:
    """What is made of a course has all its pages, though some never got there."""
    write_arm(tmp_path, "multi_head", [2.0 + 0.01 * seed for seed in range(7)])
    write_arm(tmp_path, "linear", [3.0 - 0.1 * seed for seed in range(7)])
    report = analyse(tmp_path, Options(metric=metric))
    write(report, document(report), tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    assert report.comparisons[0].verdict == "worse" and metric.rpartition(":")[2] in text.replace("\\_", "_")
    assert ("reached by 1 of 7 seeds against 7 of 7" in text) == ("steps" in metric)
