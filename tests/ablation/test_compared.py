"""What a report says was compared: every setting that differs, what was declared, and what can be compared at all."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from tests.ablation.folders import write_arm, write_run

from attnlab.ablation import preregister
from attnlab.ablation.preregister import Promise
from attnlab.ablation.report import Options, Report, analyse, write
from attnlab.ablation.sections import document
from attnlab.ablation.terminal import beside_the_table
from attnlab.errors import UsageError

BASE = [2.0, 2.1, 1.9]
WORSE = [2.3, 2.41, 2.19]


def page(report: Report, folder: Path) -> str:
    """The report as it is read."""
    write(report, document(report), folder / "report", board=False)
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


def promised(folder: Path, runs: list[str] | None) -> Promise:
    """What is promised of multi_head and linear, three seeds each."""
    promise = Promise("linear is worse", "multi_head", "val/loss", None, 0.05, [0, 1, 2], ["linear"], runs)
    preregister.write(folder, promise)
    return promise


LATE = {"started": "2999-01-01T00:00:00+00:00"}


def arms(folder: Path, **settings: object) -> list[str]:
    """Both arms as a sweep leaves them; returns the runs as a promise names them."""
    runs = [
        run
        for name, finals in (("multi_head", BASE), ("linear", WORSE))
        for run in write_arm(folder, name, finals, settings=settings, summary=LATE)
    ]
    return [run.relative_to(folder).as_posix() for run in runs]


def broken(folder: Path) -> list[str]:
    """In which points the promise of an experiment was not kept."""
    kept = analyse(folder).promise
    assert kept is not None
    return kept.broken


def test_promise_binds_configs(tmp_path: Path) -> None:
    """A second sweep with other settings was not promised, and its settings are named; what was promised is kept."""
    runs = arms(tmp_path / "trial")
    promised(tmp_path / "e", runs)
    arms(tmp_path / "e")
    assert broken(tmp_path / "e") == []
    assert "It binds the configs of 6 runs" in page(analyse(tmp_path / "e"), tmp_path / "e")
    others = arms(tmp_path / "e", **{"optimizer.weight_decay": 0, "model.dropout": 0.2})
    points = broken(tmp_path / "e")
    assert len(points) == 2
    for point, folder in zip(sorted(points), sorted({name.partition("/")[0] for name in others}), strict=True):
        assert point.startswith("run with another config than ") and f"{folder} (seeds 0, 1, 2)" in point
        assert "optimizer.weight_decay 0, not None" in point and "model.dropout 0.2, not None" in point
    report = analyse(tmp_path / "e")
    assert "It was not kept:" in page(report, tmp_path / "e")
    assert "what was promised was not kept:" in beside_the_table(report)


def test_promised_run_is_missing(tmp_path: Path) -> None:
    """A promised run without a result, and a seed too many, are named."""
    runs = arms(tmp_path / "trial")
    promised(tmp_path / "e", runs)
    arms(tmp_path / "e")
    lost = tmp_path / "e" / runs[4]
    (lost / "summary.json").unlink()
    extra = write_run(tmp_path / "e", "linear", 7, 2.0, summary=LATE)
    folder = lost.parent.name
    assert extra.parent.name == folder
    assert broken(tmp_path / "e") == [
        f"seeds that were not promised: {folder} (seed 7)",
        f"promised, and without a result: {folder} (seed 1; unfinished)",
    ]
    shutil.rmtree(lost)
    assert f"promised, and without a result: {folder} (seed 1; not there)" in broken(tmp_path / "e")


def test_second_promise_with_other_configs(tmp_path: Path) -> None:
    """The same words for other configs are another promise; the same configs are not."""
    runs = arms(tmp_path / "trial")
    promise = promised(tmp_path / "e", runs)
    assert preregister.write(tmp_path / "e", promise) == preregister.write(tmp_path / "e", promise)
    with pytest.raises(UsageError, match=r"promises something else \(other runs: not linear-0123abcd \(seed 0\)"):
        preregister.write(tmp_path / "e", promise._replace(runs=[*runs, "linear-0123abcd/seed_0"]))


def test_old_promise_says_what_it_binds(tmp_path: Path) -> None:
    """A promise from before runs were named is read, its hash holds, and two configs of one variant break it."""
    content: dict[str, object] = {
        "created": "2026-01-01T00:00:00+00:00",
        "hypothesis": "linear is worse",
        "baseline": "multi_head",
    }
    content |= {"metric": "val/loss", "margin": None, "alpha": 0.05, "seeds": [0, 1, 2], "family": ["linear"]}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    arms(tmp_path)
    (tmp_path / preregister.FILE_NAME).write_text(json.dumps({"sha256": digest, **content}))
    assert broken(tmp_path) == []
    assert "binds none of them" in page(analyse(tmp_path), tmp_path)
    arms(tmp_path, **{"optimizer.weight_decay": 0})
    assert [point[:26] for point in broken(tmp_path)] == ["linear ran with 2 configs ", "multi_head ran with 2 conf"]
