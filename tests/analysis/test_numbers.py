"""`attnlab.verdict` on plain numbers: the report's own verdicts, without folders and without torch."""

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.analysis.folders import write_arm, write_run

from attnlab.analysis.analyse import analyse
from attnlab.analysis.settings import Options
from attnlab.analysis.verdicts import verdict
from attnlab.errors import UsageError

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(8)
BASE = {seed: float(x) for seed, x in enumerate(RNG.normal(2, 0.1, size=12))}
FIELDS = (
    *("verdict", "seeds", "lost_seeds", "mean", "sd", "interval", "p", "exact_test", "exact_p", "smallest_exact_p"),
    *("deciding_p", "holm_p", "equivalence_p", "holm_equivalence_p", "solved", "detectable", "seeds_needed"),
    *("seeds_for_equivalence", "fewest_seeds", "sentence", "pairing"),
)


def moved(by: float, noise: float = 0.01) -> dict[int, float]:
    """The baseline's results, moved, with noise of their own."""
    return {seed: x + by + float(RNG.normal(0, noise)) for seed, x in BASE.items()}


@pytest.mark.parametrize("page", ["docs/start.md", "docs/verdicts.md"])
def test_example(page: str) -> None:
    """The example of the page runs as it stands, in five lines, and gives the word that stands beside it."""
    text = (ROOT / page).read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", text, flags=re.S) if "attnlab.verdict" in block]
    lines = [line for line in code.splitlines() if line.strip()]
    names: dict[str, Any] = {}
    exec("\n".join(lines[:-1]), names)
    expression, _, expected = lines[-1].partition("  # ")
    assert len(lines) <= 6 and eval(expression, names) == expected.strip('"')


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (Options(), {}),
        (Options(margin=0.05), {"margin": 0.05}),
        (Options(family=("worse", "same"), alpha=0.1), {"family": ["worse", "same"], "alpha": 0.1}),
    ],
)
def test_same_as_report(tmp_path: Path, options: Options, asked: dict[str, Any]) -> None:
    """Every number and the sentence are those of a report on folders with the same results; a run is lost of one."""
    variants = {"better": moved(-0.2), "worse": moved(0.3), "same": moved(0.0), "noisy": moved(0.0, 0.1)}
    write_arm(tmp_path, "multi_head", list(BASE.values()))
    for name, results in variants.items():
        write_arm(tmp_path, name, list(results.values()))
    (next(tmp_path.glob("worse-*/seed_3")) / "summary.json").unlink()
    del variants["worse"][3]
    report = analyse(tmp_path, options)
    verdicts = verdict(BASE, variants, lost={"worse": [3]}, **asked)
    for c in report.comparisons:
        assert [getattr(c, name) for name in FIELDS] == [getattr(verdicts[c.arm.label], name) for name in FIELDS]
        assert np.array_equal(c.differences, verdicts[c.arm.label].differences)
    assert verdicts.noise_floor == pytest.approx(report.floors[()])  # folders come in another order
    assert {c.verdict for c in report.comparisons} & {"better", "worse"}


def test_same_as_report_solved(tmp_path: Path) -> None:
    """A task that is solved or not, where a run diverged."""
    about = {"metric": "val/accuracy", "summary": {"solved_at": 0.9}}
    base, ours = [0.95, 0.99, 0.2, 0.93, 0.97, 0.96], [0.5, 0.4, 0.6, 0.5, 0.95]
    write_arm(tmp_path, "multi_head", base, curve=[0.1], **about)
    write_arm(tmp_path, "linear", ours, curve=[0.1], **about)
    write_run(tmp_path, "linear", 5, 0.1, status="diverged", **about)
    (c,) = analyse(tmp_path, Options(margin=0.9)).comparisons
    variants = {"linear": dict(enumerate([*ours, math.nan]))}
    verdicts = verdict(dict(enumerate(base)), variants, better="higher", solved=0.9, margin=0.9)
    assert c.lost_seeds == [5] and c.remarks == verdicts["linear"].remarks
    assert [getattr(c, name) for name in FIELDS] == [getattr(verdicts["linear"], name) for name in FIELDS]


def test_lost() -> None:
    """A seed of one side alone is lost unless the lost ones are named; what is no number is lost; either costs a
    verdict that does not survive it."""
    variant = {seed: x for seed, x in moved(0.5).items() if seed != 2}
    assert verdict(BASE, {"a": variant})["a"].lost_seeds == [2]
    assert verdict(BASE, {"a": variant}, lost={})["a"].lost_seeds == []
    infinite = verdict(BASE, {"a": {**variant, 2: math.inf}}, lost={})["a"]
    assert infinite.lost_seeds == [2] and "1 of a diverged" in infinite.remarks[0]
    of_baseline = verdict({0: 2.0, **variant}, {"a": BASE}, lost={"baseline": [2]})["a"]
    assert "1 of baseline lost" in of_baseline.remarks[0]
    six = {seed: BASE[seed] for seed in range(6)}
    whole = {seed: x + 0.5 for seed, x in six.items()} | {1: six[1] + 0.51}
    words = {
        n: verdict(six, {"a": {seed: x for seed, x in whole.items() if seed >= 6 - n}})["a"].verdict for n in (6, 5)
    }
    assert words == {6: "worse", 5: "cannot tell"}


def test_printed() -> None:
    """It prints as a table with a row for each variant, and what else is to be said below it."""
    text = str(verdict(BASE, {"twin": BASE, "bad": moved(0.3)}))
    assert re.search(r"\| twin +\| 12 \|.*\| cannot tell", text) and re.search(r"\| bad +\| 12 \|.*\| worse", text)
    assert "- twin: the same numbers as the baseline in every seed" in text


def test_looks() -> None:
    """A look beyond those that were declared explores."""
    assert verdict(BASE, {"bad": moved(0.3)}, look=2)["bad"].sentence == "worse, exploratory"
    assert verdict(BASE, {"bad": moved(0.3)}, look=2, looks=2)["bad"].sentence == "worse"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"better": "less"}, r"better \(less\) must be lower \| higher"),
        ({"alpha": 0.7}, r"alpha \(0\.7\) must be a number of at least 1e-09, below 0\.5"),
        ({"margin": -1.0}, r"margin \(-1\) must be null or a number above 0"),
        ({"look": 0}, r"look \(0\) and looks \(1\) must be at least 1"),
        ({"family": ["gqu"]}, r"family \(gqu\) is no variant; did you mean 'gqa'\? \(choose from: gqa\)"),
        ({"family": "gqa"}, r"family \(gqa\) must hold names, such as \['gqa'\]"),
        ({"lost": {"x": [1]}}, r"lost \(x\) is no variant \(choose from: baseline, gqa\)"),
        ({"lost": {"gqa": [1]}}, r"lost \(gqa: 1\) has a result"),
        ({"solved": 0.9}, "solved needs better='higher'"),
        ({"solved": 0.9, "better": "higher"}, r"must lie within bounds \(0 to 1\)"),
        ({"variants": {}}, r"variants \(\) must hold at least one"),
        ({"variants": {"baseline": BASE}}, "none called baseline"),
    ],
)
def test_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        verdict(**{"baseline": BASE, "variants": {"gqa": moved(0.1)}, **changes})


def test_no_torch() -> None:
    """Numbers need none of what runs need, nor the modules that read folders; `import attnlab` alone needs nothing."""
    code = (
        "import sys, attnlab; assert 'numpy' not in sys.modules; attnlab.verdict({0: 1.0}, {'a': {0: 2.0}});"
        "folders = {'attnlab.analysis.reading', 'attnlab.analysis.arms', 'attnlab.store.run_folder'};"
        "others = {'torch', 'lightning', 'hydra', 'yaml', 'PIL', 'tensorboard'};"
        "sys.exit(', '.join((folders | others) & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
