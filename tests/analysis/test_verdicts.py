"""From run folders to one word, held against numbers that are computed here by other means."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from tests.analysis.folders import write_arm, write_run

import attnlab
from attnlab.analysis.analyse import Report, analyse
from attnlab.analysis.report.content import document
from attnlab.analysis.report.publish import write
from attnlab.analysis.settings import Options
from attnlab.errors import UsageError

RNG = np.random.default_rng(11)
BASE = [float(x) for x in RNG.normal(2.0, 0.1, size=6)]


def shifted(by: float, noise: float = 0.01) -> list[float]:
    """The baseline's results, moved, with noise of their own."""
    return [x + by + float(RNG.normal(0, noise)) for x in BASE]


def verdicts(report: Report) -> dict[str, str]:
    return {c.arm.label: c.verdict for c in report.comparisons}


def test_every_word_is_given_where_it_is_due(tmp_path: Path) -> None:
    base = [*BASE, 2.03, 1.94]
    write_arm(tmp_path, "multi_head", base)
    for name, by in (("good", -0.2), ("bad", 0.2), ("same", 0.0)):
        write_arm(tmp_path, name, [x + by + float(RNG.normal(0, 0.01)) for x in base])
    noise = (0.1, -0.14, 0.09, -0.08, 0.12, -0.05, 0.1, -0.09)
    write_arm(tmp_path, "noisy", [x + e for x, e in zip(base, noise, strict=True)])
    report = analyse(tmp_path, Options(margin=0.05))
    assert verdicts(report) == {"good": "better", "bad": "worse", "same": "equivalent", "noisy": "cannot tell"}
    noisy = next(c for c in report.comparisons if c.arm.label == "noisy")
    for seeds in (noisy.seeds_needed, noisy.seeds_for_equivalence):
        assert seeds is not None and seeds.as_seen is not None and seeds.as_seen > 8
    without = analyse(tmp_path)
    assert verdicts(without)["same"] == "cannot tell"  # no margin, nothing is equivalent


def test_numbers_of_other_code(tmp_path: Path) -> None:
    """The numbers are those that other code computes."""
    arms = {"a": shifted(-0.02, 0.02), "b": shifted(0.01, 0.05), "c": shifted(0.3, 0.1)}
    write_arm(tmp_path, "multi_head", BASE)
    for name, finals in arms.items():
        write_arm(tmp_path, name, finals)
    report = analyse(tmp_path)
    tests = {name: stats.ttest_rel(finals, BASE) for name, finals in arms.items()}

    def means_apart(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        return a.mean(axis) - b.mean(axis)

    exact = {
        name: stats.permutation_test((finals, BASE), means_apart, n_resamples=np.inf, vectorized=True).pvalue
        for name, finals in arms.items()
    }
    larger = [max(tests[name].pvalue, exact[name]) for name in arms]
    holm = dict(zip(arms, multipletests(larger, method="holm")[1], strict=True))
    for c in report.comparisons:
        name, d = c.arm.label, np.array(arms[c.arm.label]) - BASE
        assert (c.p, c.exact_p) == (pytest.approx(tests[name].pvalue), pytest.approx(exact[name]))
        assert c.holm_p == pytest.approx(holm[name])
        assert c.interval == pytest.approx(tuple(tests[name].confidence_interval(0.95)))
        assert c.differences == pytest.approx(d)
        assert c.pairing.correlation == pytest.approx(np.corrcoef(arms[name], BASE)[0, 1])
    floor = report.floors[()]
    assert floor is not None
    assert floor.band == pytest.approx(stats.t.ppf(0.975, 5) * np.std(BASE, ddof=1) * math.sqrt(2 / 6))


def test_metric_that_should_grow(tmp_path: Path) -> None:
    """A metric that should grow turns the words around."""
    write_arm(tmp_path, "multi_head", [x / 4 for x in BASE], metric="val/accuracy")
    write_arm(tmp_path, "good", [x / 4 for x in shifted(0.4)], metric="val/accuracy")
    assert verdicts(analyse(tmp_path, Options(metric="val/accuracy"))) == {"good": "better"}


def test_a_sweep_of_equals_cannot_tell(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for name in ("multi_head", *"abcdefghij"):
        write_arm(tmp_path, name, rng.normal(2, 0.1, size=3).tolist())
    assert set(verdicts(analyse(tmp_path)).values()) == {"cannot tell"}


def test_diverged_runs_never_flatter(tmp_path: Path) -> None:
    """Runs that diverged never make a variant better."""
    write_arm(tmp_path, "multi_head", BASE)
    write_arm(tmp_path, "fragile", shifted(-0.2)[:5])
    write_run(tmp_path, "fragile", 5, 9.0, status="diverged")
    found = analyse(tmp_path).comparisons[0]
    assert (found.verdict, found.n, found.arm.lost) == ("cannot tell", 5, {5: "diverged"})
    assert found.remarks == ("1 of 6 seeds are lost (1 of fragile diverged)",)


def test_a_missing_run_is_counted_and_said(tmp_path: Path) -> None:
    write_arm(tmp_path, "multi_head", BASE)
    folders = write_arm(tmp_path, "good", shifted(-0.2))
    (folders[3] / "summary.json").unlink()
    found = analyse(tmp_path).comparisons[0]
    assert (found.verdict, found.seeds) == ("cannot tell", [0, 1, 2, 4, 5])
    assert found.remarks == ("1 of 6 seeds are lost (1 of good unfinished)",)


def test_seeds_are_paired(tmp_path: Path) -> None:
    """Seeds are paired by number and one says nothing."""
    write_run(tmp_path, "multi_head", 3, 2.0)
    write_run(tmp_path, "multi_head", 4, 2.1)
    write_run(tmp_path, "other", 4, 2.2)
    write_run(tmp_path, "other", 5, 0.1)
    found = analyse(tmp_path).comparisons[0]
    assert (found.seeds, found.verdict, found.mean) == ([4], "cannot tell", pytest.approx(0.1))
    assert "one seed says nothing of chance" in found.remarks


def test_family_of_comparisons(tmp_path: Path) -> None:
    """The family is what was asked and the rest is not judged."""
    write_arm(tmp_path, "multi_head", BASE)
    for name in ("a", "b"):
        write_arm(tmp_path, name, shifted(-0.1, 0.1))
    whole, asked = analyse(tmp_path), analyse(tmp_path, Options(family=("a",)))
    assert verdicts(asked)["b"] == "not in the family"
    a = next(c for c in asked.comparisons if c.arm.label == "a")
    assert a.holm_p == a.deciding_p
    assert a.holm_p <= next(c for c in whole.comparisons if c.arm.label == "a").holm_p
    with pytest.raises(UsageError, match=r"family \(z\) is not in this experiment \(choose from: multi_head, a, b\)"):
        analyse(tmp_path, Options(family=("z",)))


def test_same_numbers_as_baseline(tmp_path: Path) -> None:
    """The same numbers as the baseline are pointed out."""
    write_arm(tmp_path, "multi_head", BASE)
    write_arm(tmp_path, "twin", BASE)
    found = analyse(tmp_path).comparisons[0]
    assert (found.verdict, found.remarks) == ("cannot tell", ("the same numbers as the baseline in every seed",))


def test_the_baseline_is_the_one_named_or_declared(tmp_path: Path) -> None:
    write_arm(tmp_path, "x", BASE)
    write_arm(tmp_path, "y", shifted(0.2))
    with pytest.raises(UsageError, match="baseline must be named, as there is no multi_head here: x, y"):
        analyse(tmp_path)
    assert verdicts(analyse(tmp_path, Options(baseline="y"))) == {"x": "better"}
    folder = next(tmp_path.glob("y-*")).name  # as a sweep declares it
    (tmp_path / "manifest.json").write_text(
        json.dumps({"baseline": folder, "design": {"metric": "val_loss", "margin": 0.5}, "runs": []})
    )
    declared = analyse(tmp_path)
    assert (declared.baseline.label, declared.rules.margin, declared.experiment.metric) == ("y", 0.5, "val/loss")
    with pytest.raises(UsageError, match="baseline"):
        analyse(tmp_path, Options(baseline="z"))


def test_a_metric_that_is_not_there_is_refused(tmp_path: Path) -> None:
    write_arm(tmp_path, "multi_head", BASE)
    with pytest.raises(UsageError, match=r"^metric \(val/error\) is not logged \(logged: val/loss\)$"):
        analyse(tmp_path, Options(metric="val/error"))
    with pytest.raises(UsageError, match="does not say which way is better"):
        analyse(tmp_path, Options(metric="val/thing"))


def test_rate_chosen_on_other_seeds(tmp_path: Path) -> None:
    """Loss is a parabola in log rate with its lowest point at 10^-2.6; seed 0 tunes, seeds 1 to 4 judge."""
    rates = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]
    for name, base in (("multi_head", 2.0), ("other", 1.8)):
        for rate in rates:
            loss = base + (math.log10(rate) + 2.6) ** 2
            write_run(tmp_path, name, 0, loss, settings={"optimizer.lr": rate}, curve=[6.0])
        for seed in range(1, 5):
            write_run(tmp_path, name, seed, base + 0.01 * seed * len(name), settings={"optimizer.lr": 3e-3})
    report = analyse(tmp_path)
    tuned = [c.lr_curve for c in report.design.arms]
    assert [c.seeds for c in report.comparisons] == [[1, 2, 3, 4]]
    for found in tuned:
        assert found is not None
        assert (found.best, found.chosen, found.tuning_seeds) == (3e-3, 3e-3, [0])
        assert found.fitted == pytest.approx(10**-2.6, rel=1e-6)
        losses = [(math.log10(rate) + 2.6) ** 2 for rate in rates]
        assert found.sensitivity == pytest.approx(np.mean(losses) - min(losses))


def test_effects_and_interactions(tmp_path: Path) -> None:
    """2 x 2: mask -0.2, normaliser +0.1, both together 0.05 more."""
    noise = RNG.normal(0, 0.05, size=5)
    for mask in (0, 1):
        for normalizer in (0, 1):
            name = "+".join(["multi_head", *["window"] * mask, *["relu"] * normalizer])
            settings = {
                "attention._target_": "attnlab.attention.multi_head.MultiHeadAttention",
                "attention.mask._target_": f"attnlab.attention.mask.{('Causal', 'Window')[mask]}",
                "attention.normalizer._target_": f"attnlab.attention.normalizer.{('Softmax', 'Relu')[normalizer]}",
            }
            finals = 2 - 0.2 * mask + 0.1 * normalizer + 0.05 * mask * normalizer + noise
            write_arm(tmp_path, name, finals.tolist(), settings=settings)
    effects = analyse(tmp_path).effects
    assert effects is not None
    found = {e.name: round(e.mean, 6) for e in effects.effects}
    assert list(found.values()) == [-0.175, 0.125, 0.05]
    assert [e.kind for e in effects.effects] == ["main", "main", "interaction"]


def test_tasks_are_blocks(tmp_path: Path) -> None:
    """Tasks are blocks and come together in the end."""
    for task, scale in (("Stories", 1.0), ("Recall", 10.0)):
        settings = {"data._target_": f"attnlab.data.{task}"}
        write_arm(tmp_path, "multi_head", [scale * x for x in BASE], settings=settings)
        write_arm(tmp_path, "good", [scale * x for x in shifted(-0.9)], settings=settings)
    report = analyse(tmp_path)
    assert [c.verdict for c in report.comparisons] == ["better", "better"]
    good = next(a for a in report.aggregates if a.label == "good")
    assert (good.tasks, good.runs, good.improvement) == (2, 12, 1.0)
    assert good.iqm == pytest.approx(0.55, abs=0.03)


def test_success_rate(tmp_path: Path) -> None:
    """Solved or not counts seeds and keeps those that diverged."""
    write_arm(tmp_path, "multi_head", [1.0, 1.0, 0.2], metric="val/accuracy", curve=[0.0, 0.995])
    write_run(tmp_path, "multi_head", 3, 0.1, metric="val/accuracy", status="diverged")
    write_arm(tmp_path, "other", [0.1, 0.2, 0.3], metric="val/accuracy")
    found = analyse(tmp_path, Options(metric="val/accuracy")).solved
    assert [(s.arm.label, s.solved, s.n) for s in found] == [("multi_head", 2, 4), ("other", 0, 3)]
    assert (found[0].median_steps, found[1].median_steps) == (20, None)
    assert found[1].share.low == 0 < found[1].share.high < 1


def test_the_csv_holds_full_precision(tmp_path: Path) -> None:
    write_arm(tmp_path, "multi_head", BASE)
    write_arm(tmp_path, "a", shifted(-0.2))
    report = analyse(tmp_path)
    write(report, document(report), tmp_path / "report")
    rows = list(csv.DictReader((tmp_path / "report" / "verdicts.csv").read_text().splitlines()))
    assert float(rows[0]["holm_p"]) == report.comparisons[0].holm_p
    runs = list(csv.DictReader((tmp_path / "report" / "runs.csv").read_text().splitlines()))
    assert [float(row["value"]) for row in runs if row["variant"] == "multi_head"] == BASE


def test_few_seeds() -> None:
    """A verdict on fewer than four seeds says so in the table."""
    base, gain = {0: 3.0, 1: 3.1, 2: 3.05, 3: 3.02}, {0: 2.0, 1: 2.1, 2: 2.051, 3: 2.02}
    few = {seed: base[seed] for seed in (0, 1, 2)}, {seed: gain[seed] for seed in (0, 1, 2)}
    assert "better (on 3 seeds only)" in str(attnlab.verdict(few[0], {"v": few[1]}, alpha=0.3))
    assert "only" not in str(attnlab.verdict(base, {"v": gain}, alpha=0.3))
