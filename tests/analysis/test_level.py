"""How often a report says what is not so, by simulation through the code that writes reports.

A family has no true difference: variants with the law of the baseline, or with its centre and another spread. It holds
a false verdict if any variant is called better, worse or, where the difference is as large as the margin, equivalent.
"""

import csv
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float
from tests.analysis.folders import write_arm

from attnlab.analysis import exact_tests, statistics
from attnlab.analysis.analyse import analyse
from attnlab.analysis.arms import Arm, BlockDesign, arm_of_runs
from attnlab.analysis.compare_arms import compare
from attnlab.analysis.comparison import BETTER, EQUIVALENT, WORSE, Comparison, Rules
from attnlab.analysis.metric_curves import Curve
from attnlab.analysis.reading import Run
from attnlab.analysis.report.content import document
from attnlab.analysis.report.publish import write
from attnlab.analysis.settings import Options
from attnlab.config.compose import compose_config
from attnlab.store.experiment_folder import ExperimentFolder
from attnlab.store.status import Status
from attnlab.sweep.jobs import Job
from attnlab.sweep.plan import PlannedRun
from attnlab.sweep.reporting import prospects
from attnlab.training.identity import SEEDS, Identity

ALPHA, TOLERANCE = 0.05, 0.015
DECISIVE = {BETTER, WORSE, EQUIVALENT}
RULES = Rules(True, ALPHA, None)
SHARE = (0.0, 1.0)
Results = Float[np.ndarray, "arms n"]  # the baseline first
Law = Callable[[np.random.Generator, tuple[int, int]], Results]


def normal(rng: np.random.Generator, shape: tuple[int, int]) -> Results:
    return rng.normal(size=shape)


def paired(rng: np.random.Generator, shape: tuple[int, int]) -> Results:
    """Nine tenths of the variance belong to the seed."""
    return 3 * rng.normal(size=(1, shape[1])) + rng.normal(size=shape)


def t3(rng: np.random.Generator, shape: tuple[int, int]) -> Results:
    return rng.standard_t(3, size=shape)


def lognormal(rng: np.random.Generator, shape: tuple[int, int]) -> Results:
    return np.exp(rng.normal(size=shape))


def exponential(rng: np.random.Generator, shape: tuple[int, int]) -> Results:
    return rng.exponential(size=shape)


def solved(share: float, noise: float = 0.01) -> Law:
    """Runs that solve a task, and others that come nowhere near."""

    def law(rng: np.random.Generator, shape: tuple[int, int]) -> Results:
        return np.where(rng.random(shape) < share, 1.0, 0.3) + noise * rng.normal(size=shape)

    return law


def solved_together(rng: np.random.Generator, shape: tuple[int, int]) -> Results:
    """The seed decides for most arms at once whether they solve the task."""
    seed = np.broadcast_to(rng.random((1, shape[1])), shape)
    lot = np.where(rng.random(shape) < 0.6, seed, rng.random(shape))
    return np.where(lot < 0.5, 1.0, 0.3) + 0.01 * rng.normal(size=shape)


def bad_runs(share: float) -> Law:
    def law(rng: np.random.Generator, shape: tuple[int, int]) -> Results:
        return rng.normal(size=shape) + 20 * (rng.random(shape) < share)

    return law


def spread(of: Law, ratio: float) -> Law:
    """The same centre, and variants that scatter so many times as far as the baseline."""

    def law(rng: np.random.Generator, shape: tuple[int, int]) -> Results:
        return of(rng, shape) * np.array([1.0, *[ratio] * (shape[0] - 1)])[:, None]

    return law


def spreads(rng: np.random.Generator, shape: tuple[int, int]) -> Results:
    """Every variant another spread, from a tenth to ten times that of the baseline; half of it belongs to the seed."""
    ratios = np.array([1.0, *np.geomspace(0.1, 10, shape[0] - 1)])[:, None]
    return ratios * (rng.normal(size=shape) + rng.normal(size=(1, shape[1])))


LAWS: dict[str, Law] = {
    **{"normal": normal, "paired": paired, "t3": t3, "lognormal": lognormal, "exponential": exponential},
    **{f"solved {share}": solved(share) for share in (0.2, 0.5, 0.8)},
    **{"solved 0.5 without noise": solved(0.5, 0.0), "solved together": solved_together},
    **{f"bad runs {share}": bad_runs(share) for share in (0.05, 0.15, 0.3)},
    **{f"normal, spread {ratio}": spread(normal, ratio) for ratio in (0.2, 5.0)},
    **{f"t3, spread {ratio}": spread(t3, ratio) for ratio in (0.2, 5.0)},
    "spreads": spreads,
}


def design(results: Results, status: Status = Status.FAILED, **about: Any) -> BlockDesign:
    """An experiment as the report reads it: one arm for each row, the baseline first; nan is a lost run."""
    arms = []
    for i, row in enumerate(results):
        name = f"variant{i}"
        runs = []
        for seed, value in enumerate(row):
            run = Run(Path(name), name, name, seed, status, summary=about)
            if not np.isnan(value):
                curve = Curve(np.array([1]), value[None])
                run = Run(Path(name), name, name, seed, Status.FINISHED, summary=about, curve=curve)
            runs.append(run)
        arms.append(arm_of_runs(name, name, {}, runs))
    return BlockDesign(arms, {(): arms[0]}, [])


def families(law: Law, m: int, n: int, count: int, rules: Rules = RULES, seed: int = 0) -> list[list[Comparison[Arm]]]:
    """The verdicts of many families of m variants with n seeds."""
    rng = np.random.default_rng([seed, m, n])
    return [compare(design(law(rng, (m + 1, n))).pairs(), rules) for _ in range(count)]


def rate(verdicts: list[list[Comparison[Arm]]]) -> float:
    """The share of families that hold a false verdict."""
    return float(np.mean([any(c.verdict in DECISIVE for c in family) for family in verdicts]))


def rate_of(name: str, verdicts: list[list[Comparison[Arm]]]) -> float:
    """The same if one of the two tests decided alone."""
    return float(np.mean([min(statistics.holm([getattr(c, name) for c in family])) <= ALPHA for family in verdicts]))


@pytest.mark.parametrize(
    ("law", "m", "n", "count"),
    [
        *(("paired", 3, 7, 50), ("lognormal", 3, 5, 50), ("t3", 1, 4, 200), ("solved 0.5", 5, 5, 50)),
        *(("bad runs 0.15", 10, 6, 20), ("normal, spread 5.0", 1, 5, 200), ("spreads", 4, 8, 50)),
    ],
)
def test_level(law: str, m: int, n: int, count: int) -> None:
    """A sample of the grid below."""
    assert rate(families(LAWS[law], m, n, count)) <= ALPHA + TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("m", [1, 3, 10])
@pytest.mark.parametrize("law", LAWS)
def test_level_grid(law: str, m: int) -> None:
    """Every law, from too few seeds to many; two standard errors of the simulation are allowed for."""
    count = {1: 1000, 3: 600, 10: 300}[m]
    error = (ALPHA * (1 - ALPHA) / count) ** 0.5
    rates = {n: rate(families(LAWS[law], m, n, count)) for n in (2, 3, 4, 5, 6, 7, 9, 14, 30)}
    assert max(rates.values()) <= ALPHA + TOLERANCE + 2 * error, rates
    assert np.mean(list(rates.values())) <= ALPHA


@pytest.mark.parametrize("law", ["solved 0.5", "bad runs 0.3"])
def test_t_alone(law: str) -> None:
    """The t test by itself breaks the promise where runs fall into two heaps; with the exact test it cannot."""
    rng, alone = np.random.default_rng(2), []
    for _ in range(600):
        results = LAWS[law](rng, (11, 2))
        alone.append(10 * statistics.t_p(results[1:] - results[0]).min() <= ALPHA)
    assert np.mean(alone) > ALPHA + TOLERANCE
    assert rate(families(LAWS[law], 10, 2, 10)) == 0


def test_exact_alone() -> None:
    """Permutations by themselves break it where spreads differ: both tests are needed."""
    verdicts = families(LAWS["normal, spread 5.0"], 1, 4, 400)
    assert {c.exact_test for (c,) in verdicts} == {exact_tests.PERMUTATIONS}
    assert rate_of("exact_p", verdicts) > ALPHA + TOLERANCE
    assert rate(verdicts) <= ALPHA + TOLERANCE


def test_spreads_are_said() -> None:
    """Permutations of arms that scatter unequally promise little, and the verdict says so; sign flips need no word."""
    rng = np.random.default_rng(3)
    for n, ratio, expected in ((4, 8.0, True), (4, 1.0, False), (6, 8.0, False)):
        results = rng.uniform(-1, 1, size=(2, n)) * np.array([1.0, ratio])[:, None] + np.array([0.0, 99.0])[:, None]
        (c,) = compare(design(results).pairs(), RULES)
        assert c.verdict == WORSE
        assert (
            any("as widely" in remark and remark.endswith("6 seeds need no such law") for remark in c.remarks)
            == expected
        )
    same = np.stack([np.ones(4), np.arange(4) + 99.0])
    assert "infinitely" in str(compare(design(same).pairs(), RULES)[0].remarks)


def shifted(law: Law, margin: float, share: float = 1.0) -> Law:
    """Variants that differ by just the margin, or so large a share of them."""

    def moved(rng: np.random.Generator, shape: tuple[int, int]) -> Results:
        results = law(rng, shape)
        results[1 : 1 + round(share * (shape[0] - 1))] += margin
        return results

    return moved


AT_MARGIN = [("normal", 0.5), ("t3", 1.0), ("lognormal", 1.0), ("bad runs 0.15", 1.0), ("normal, spread 0.2", 2.0)]


@pytest.mark.parametrize(("law", "margin"), AT_MARGIN)
def test_false_equivalence(law: str, margin: float) -> None:
    """A difference as large as the margin is hardly ever called equivalent, nor anything else that it is not."""
    for m, n, count in ((1, 5, 60), (3, 9, 20)):
        verdicts = families(shifted(LAWS[law], margin), m, n, count, RULES._replace(margin=margin))
        assert np.mean([any(c.verdict == EQUIVALENT for c in family) for family in verdicts]) <= ALPHA + TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize(("law", "margin"), AT_MARGIN)
def test_false_equivalence_grid(law: str, margin: float) -> None:
    for scale in (margin, 5 * margin):
        for m in (1, 5, 10):
            for n in (2, 3, 4, 5, 6, 8, 12, 30):
                verdicts = families(shifted(LAWS[law], scale), m, n, 500, RULES._replace(margin=scale))
                share = np.mean([any(c.verdict == EQUIVALENT for c in family) for family in verdicts])
                assert share <= ALPHA + TOLERANCE, (scale, m, n)


@pytest.mark.slow
def test_both_kinds() -> None:
    """Half of a family differs by the margin and half not at all: two corrections, one for each question, would spend
    alpha twice."""
    margin = 3 * (2 / 12) ** 0.5  # three standard errors: farther off, a difference is seen before it is overlooked
    verdicts = families(shifted(normal, margin, share=0.5), 2, 12, 800, RULES._replace(margin=margin))

    def wrong(family: list[Comparison[Arm]], words: list[str]) -> bool:
        return words[0] == EQUIVALENT or words[1] in (BETTER, WORSE)

    ours = np.mean([wrong(family, [c.verdict for c in family]) for family in verdicts])
    apart = []
    for family in verdicts:
        p = statistics.holm([c.deciding_p or 0 for c in family])
        q = statistics.holm([c.equivalence_p or 0 for c in family])
        apart.append(q[0] <= ALPHA < p[0] or p[1] <= ALPHA)
    assert ours <= ALPHA + TOLERANCE < np.mean(apart)


def test_chosen_before_data() -> None:
    """Which exact test is taken depends on seeds, family and alpha alone; with too few seeds there is no verdict,
    whatever the results."""
    for n, m, expected in ((3, 1, None), (4, 1, "permutations"), (6, 1, "sign flips"), (6, 2, "permutations")):
        results = np.arange(m + 1)[:, None] * 100.0 + np.random.default_rng(n).normal(size=(m + 1, n))
        found = compare(design(results).pairs(), RULES)
        assert [c.exact_test for c in found] == [expected] * m
        assert all((c.verdict == WORSE) == (expected is not None) for c in found)
        assert found[0].fewest_seeds == {1: 4, 2: 5}[m]


def test_solved_or_not() -> None:
    """Fisher's test on the seeds that solved the task, whatever the means say."""
    rules = RULES._replace(bounds=SHARE, lower_is_better=False, margin=0.6)
    found = compare(design(np.array([[1.0] * 4, [0.2, 0.3, 0.1, 0.2]]), solved_at=0.99).pairs(), rules)[0]
    assert (found.verdict, found.exact_test, found.exact_p) == (WORSE, "Fisher", pytest.approx(1 / 35))
    three = compare(design(np.array([[1.0] * 3, [0.1, 0.2, 0.3]]), solved_at=0.99).pairs(), rules)[0]
    assert (three.verdict, three.exact_test, three.smallest_exact_p) == ("cannot tell", None, pytest.approx(0.1))
    both = compare(design(np.ones((2, 6)), solved_at=0.99).pairs(), rules)[0]
    assert (both.verdict, both.equivalence_p) == (EQUIVALENT, pytest.approx(0.4**6))  # of six, none failed at 0.4


@pytest.mark.parametrize(("m", "n"), [(1, 4), (5, 5)])
def test_solved_level(m: int, n: int) -> None:
    """The same promise for shares of seeds, which the t test on accuracies breaks."""
    rules = RULES._replace(bounds=SHARE, lower_is_better=False)
    rng = np.random.default_rng(n)
    verdicts = [compare(design(solved(0.5, 0.001)(rng, (m + 1, n)), solved_at=0.99).pairs(), rules) for _ in range(30)]
    assert rate(verdicts) <= ALPHA + TOLERANCE


def test_lost_runs_level() -> None:
    """Runs fail because they are bad: those that are left flatter, and their verdicts would break the promise."""
    rng, count, alone, ours = np.random.default_rng(4), 60, 0, 0
    for _ in range(count):
        results = rng.normal(size=(4, 9))
        results[1:][results[1:] > 0.7] = np.nan  # of the variants, not of the baseline
        family = compare(design(results).pairs(), RULES)
        ours += any(c.verdict in DECISIVE for c in family)
        alone += min(statistics.holm([c.p if c.p is not None else 1.0 for c in family])) <= ALPHA
    assert ours / count <= ALPHA + TOLERANCE < alone / count


@pytest.mark.parametrize("status", [Status.FAILED, Status.DIVERGED, Status.DAMAGED, Status.UNFINISHED, Status.PLANNED])
@pytest.mark.parametrize("arm", [0, 1])
def test_lost_run(arm: int, status: Status) -> None:
    """Whichever arm lost a run, and however, a verdict must survive its worst case: by rank for losses, at the bound
    for accuracies; equivalent survives no lost loss."""
    rng = np.random.default_rng(1)
    for n, share, expected in (
        (6, False, "cannot tell"),
        (12, False, WORSE),
        (6, True, "cannot tell"),
        (12, True, WORSE),
    ):
        results = np.stack([rng.normal(0.3, 0.01, n), rng.normal(0.5, 0.01, n)])
        results[arm, 2] = np.nan
        built = design(results, status)
        found = compare(built.pairs(), RULES._replace(bounds=SHARE if share else None, margin=None))[0]
        assert (found.verdict, found.n, found.lost_seeds) == (expected, n - 1, [2])
        assert f"1 of {n} seeds are lost (1 of variant{arm} {status})" in found.remarks[0]
    same = rng.normal(0.5, 1e-3, size=(2, 12))
    whole = compare(design(same).pairs(), RULES._replace(margin=0.05))[0]
    same[arm, 0] = np.nan
    holed = compare(design(same).pairs(), RULES._replace(margin=0.05))[0]
    assert (whole.verdict, holed.verdict) == (EQUIVALENT, "cannot tell")


def test_tied_to_folders(tmp_path: Path) -> None:
    """What is simulated is what is written: the same results as run folders give the same verdicts in the CSV."""
    results = np.random.default_rng(3).normal(2, 0.1, size=(4, 6)) + np.array([0, 1, 0, 0.2])[:, None]
    for i, row in enumerate(results):
        write_arm(tmp_path, f"variant{i}" if i else "multi_head", row.tolist())
    report = analyse(tmp_path, Options(margin=0.3))
    write(report, document(report), tmp_path / "report")
    rows = list(csv.DictReader((tmp_path / "report" / "verdicts.csv").read_text().splitlines()))
    expected = compare(design(results).pairs(), RULES._replace(margin=0.3))
    assert [row["verdict"] for row in rows] == [c.verdict for c in expected]
    assert [float(row["holm_p"]) for row in rows] == [c.holm_p for c in expected]
    assert WORSE in {c.verdict for c in expected}


def test_task_declares(tmp_path: Path) -> None:
    """Where every run's task says from when it is solved, the verdict is one on accuracy, by seeds that solved it."""
    about = {"metric": "val/accuracy", "summary": {"solved_at": 0.9}}
    write_arm(tmp_path, "multi_head", [0.95] * 5, curve=[0.1], **about)
    write_arm(tmp_path, "linear", [0.5, 0.4, 0.6, 0.5, 0.95], curve=[0.1], **about)
    report = analyse(tmp_path, Options(margin=0.9))
    (c,) = report.comparisons
    assert (report.experiment.metric, report.solved_at, c.solved) == ("val/accuracy", 0.9, (0.9, 1, 5, 5))
    assert (c.verdict, c.exact_p) == (WORSE, pytest.approx(exact_tests.fisher_p(1, 5, 5)))
    low, high = exact_tests.share_interval(1, 5, 5, 0.05)
    assert f"[{low:+.4f}, {high:+.4f}]" in str(document(report))
    assert analyse(tmp_path, Options(solved=0.3)).comparisons[0].solved == (0.3, 5, 5, 5)


@pytest.mark.parametrize(
    ("seeds", "variants", "looks", "expected"),
    [
        (3, 1, 1, "1 variant against base, 3 seeds: no verdict is possible; 4 seeds are the fewest"),
        (4, 1, 1, "verdicts are possible (from 4 seeds on, by pairs from 6); if none of the runs is bad, up to 53 %"),
        (4, 1, 2, "no verdict is possible; 5 seeds are the fewest"),
        (5, 9, 1, "9 variants against base, 5 seeds: no verdict is possible; 6 seeds are the fewest"),
    ],
)
def test_prospects(seeds: int, variants: int, looks: int, expected: str, tmp_path: Path) -> None:
    """The plan says which number of seeds allows a verdict, and that fewer allow none."""
    declared = ["report.baseline=base", f"report.looks={looks}"]
    config = compose_config([*declared, f"paths.runs={tmp_path}", "experiment_name=e"])
    names = ["base", *(f"v{i}" for i in range(variants))]
    runs = []
    for name, seed in itertools.product(names, range(seeds)):
        identity = Identity(name, seed, {"variant": name, **dict.fromkeys(SEEDS, seed)}, "c0de")
        runs.append(PlannedRun(Job((), config, name, {}, False), identity, {"solved_at": None}))
    lines = prospects(runs)
    assert len(lines) == 1 and expected in lines[0]
    ExperimentFolder(tmp_path / "e").manifest.count_look({"set": "a"})
    lines = prospects(runs)
    assert ("added runs are explored, not judged" in lines[-1]) == (looks == 1)


def first_reached(law: Law) -> Law:
    """Steps at which something is reached, of ten looks; inf where the value that the law gives is large."""

    def steps(rng: np.random.Generator, shape: tuple[int, int]) -> Results:
        values = np.ceil(law(rng, shape) + 3)
        return np.where(values > 4, np.inf, np.maximum(values, 0))

    return steps


STEPS = RULES._replace(censored=True)


@pytest.mark.parametrize(("law", "m", "n"), [("normal", 1, 6), ("paired", 3, 8), ("t3, spread 5.0", 1, 7)])
def test_steps_level(law: str, m: int, n: int) -> None:
    """The same promise for steps, some of them never reached."""
    assert rate(families(first_reached(LAWS[law]), m, n, 80, STEPS)) <= ALPHA + TOLERANCE


def test_steps() -> None:
    """Never is later than all; where all came, there is a mean, and a margin may be kept; two that never came are
    equal."""
    never = [np.inf] * 6
    early, late = [10.0, 20, 10, 20, 10, 20], [90.0, 80, 70, 60, 50, 40]
    for ours, expected, mean in ((never, WORSE, None), (late, WORSE, 50.0), (early, "cannot tell", 0.0)):
        (c,) = compare(design(np.array([early, ours])).pairs(), STEPS)
        assert (c.verdict, c.mean) == (expected, mean)
    (c,) = compare(design(np.array([never, early])).pairs(), STEPS)
    assert (c.verdict, c.exact_test, c.exact_p) == (BETTER, "signed ranks", 2 / 64)
    assert c.remarks == ("reached by 6 of 6 seeds against 0 of 6",)
    (c,) = compare(design(np.array([never, never])).pairs(), STEPS._replace(margin=5.0))
    assert (c.verdict, c.equivalence_p) == ("cannot tell", 1.0)
    lost = np.array([early * 2, never * 2])
    lost[1, 3] = np.nan
    assert compare(design(lost).pairs(), STEPS)[0].verdict == WORSE
    lost[1, :6] = np.nan
    assert compare(design(lost).pairs(), STEPS)[0].verdict == "cannot tell"


def test_metrics_are_counted() -> None:
    """Who looked at several metrics needs stronger evidence on each: two variants on two are a family of four."""
    results = np.random.default_rng(1).normal(size=(3, 8)) + np.array([0, 1.3, 0.6])[:, None]
    alone = compare(design(results).pairs(), RULES)
    two = compare(design(results).pairs(), RULES._replace(metrics=2))
    smallest = min(c.deciding_p or 1 for c in alone)
    assert min(c.holm_p or 1 for c in alone) == pytest.approx(2 * smallest)
    assert min(c.holm_p or 1 for c in two) == pytest.approx(4 * smallest)
    assert two[0].fewest_seeds >= alone[0].fewest_seeds and two[0].alpha == ALPHA / 4


def test_neither_way_is_better() -> None:
    """How widely heads look is higher or lower, and no better or worse."""
    rules = RULES._replace(lower_is_better=False, judges=False)
    results = np.random.default_rng(1).normal(size=(3, 8)) + np.array([0, 9, -9])[:, None]
    assert [c.verdict for c in compare(design(results).pairs(), rules)] == ["higher", "lower"]
