"""Published claims: every file says what it must, and a tiny one is trained, judged and counted."""

import json
import os
import re
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from docs.ledger import AUTHORS, BEGIN, PAGE, RECORDS, page
from rich.console import Console
from tests.laws.cases import drawn

from attnlab.analysis.claim_rules import HOLDS, judge
from attnlab.config.compose import config_dir
from attnlab.config.keys import options, searching
from attnlab.data.dataset import IGNORED
from attnlab.errors import AttnlabError, UsageError
from attnlab.store.experiment_folder import ExperimentFolder
from attnlab.store.manifest import Manifest
from attnlab.sweep import replication
from attnlab.sweep.claim import Claim, parse_claim, read_claims
from attnlab.sweep.ledger import show_list
from attnlab.sweep.replication import _run, check, check_metrics, read_record, replicate

TINY: dict[str, Any] = {
    "claim": "A longer training is a better one.",
    "source": "arXiv 0000.00000",
    "published": "Nothing.",
    "settings": {"data": "parity", "model": "tiny", "model.context": 8, "batch_size": 8, "maps.steps": 0}
    | {"data.val_rows": 64, "trainer.val_every": 2},
    "arms": {"short": {"trainer.max_steps": 1}, "long": {"trainer.max_steps": 3}},
    "measures": {"loss": "val/loss", "above": "[val/loss] - [ceiling/loss]"},
    "rule": ["loss(long) - loss(short) < 0"],
    "seeds": 5,
    "minutes": 0.3,
}
CLAIMS = options("claim")


def claim(tmp_path: Path, **changes: Any) -> Claim:
    """The tiny claim with other content."""
    path = tmp_path / "claim" / "tiny.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump({**TINY, **changes}, sort_keys=False))
    return parse_claim("tiny", path)


def test_claims() -> None:
    """Twenty or more; seeds that no trial has, the same for all who ask, and other ones for each claim."""
    claims = read_claims()
    assert len(claims) >= 20 and [c.name for c in claims] == CLAIMS
    seeds = [seed for each in claims for seed in each.seeds]
    assert len(set(seeds)) == len(seeds) and min(seeds) >= 1000
    for each in claims:
        assert each.seeds == each.seeds and len(each.seeds) == each.n_seeds >= 5 and each.minutes <= 40
        assert len(each.arms) >= 2 and each.rule, each.name
        assert re.search(r"arXiv \d{4}\.\d{4,5}|github\.com/", each.source), f"{each.name}: source ({each.source})"


@pytest.mark.parametrize("name", [n if drawn((n,), 16) else pytest.param(n, marks=pytest.mark.slow) for n in CLAIMS])
def test_recipe(name: str) -> None:
    """A recipe composes, and logs what its rule is about."""
    check_metrics(read_claims([name])[0], None)


def test_hash(tmp_path: Path) -> None:
    """What is trained and how it is judged decide the seeds; sentences do not."""
    first = claim(tmp_path)
    assert claim(tmp_path, claim="Other words.", note="Why.", minutes=2).hash == first.hash
    changes: list[dict[str, Any]] = [
        {"settings": {**TINY["settings"], "batch_size": 4}},
        {"arms": {**TINY["arms"], "long": {"trainer.max_steps": 4}}},
        {"measures": {**TINY["measures"], "above": "[val/loss] - 0.1"}},
        {"rule": ["loss(long) - loss(short) < 0.1"]},
        {"seeds": 6},
    ]
    others = [claim(tmp_path, **change) for change in changes]
    assert len({first.hash, *(other.hash for other in others)}) == 6
    assert not set(first.seeds) & {seed for other in others for seed in other.seeds}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"rul": []}, r"rul is not a key; did you mean 'rule'\?"),
    *(({text: None}, rf"{text} \(null\) must be a sentence") for text in ("claim", "source", "published")),
    ({"source": " "}, r"source \(\) must be a sentence"),
    ({"source": 2510.26692}, r"source \(2510.26692\) must be a sentence"),
    ({"source": "\x1b[2J"}, r"source \(.x1b.*\) must be a sentence"),
    *(({"note": note}, r"note \(.*\) must be a sentence") for note in (3, ["a"], "\x1b[2J")),
    *(({"minutes": m}, r"minutes \(.*\) must be a number above 0") for m in ("long", None, True, 0, -1, float("inf"))),
    *(
        ({"seeds": n}, r"seeds \(.*\) must be a whole number from 1 to 1000")
        for n in (0, -1, "5", 5.0, None, True, [1], 10**9)
    ),
    ({"seeds": 4}, r"seeds \(4\) must be at least 5: no fewer can refute one of 1 conditions"),
    ({"rule": [f"loss(long) > {i}" for i in range(4)]}, r"seeds \(5\) must be at least 7"),
    *(({"rule": rule}, r"rule \(.*\) must list inequalities") for rule in ([], None, "loss(long) < 3", {"a": "b"})),
    ({"rule": ["loss(longer) > 0"]}, r"rule \(.*\): longer is not one of short, long; did you mean 'long'\?"),
    ({"rule": ["los(long) > 0"]}, r"rule \(.*\): los is not one of loss, above; did you mean 'loss'\?"),
    ({"rule": ["1 < loss(long) < 3"]}, r"rule \(.*\) must be one inequality with .*two lines of the rule"),
    ({"rule": ["loss(long) <= loss(long)"]}, r"rule \(.*\) must depend on what the runs come to"),
    ({"rule": ["loss(long) < 3"] * 2, "seeds": 8}, r"rule \(loss\(long\) < 3\) stands there twice"),
    ({"measures": {}}, r"measures \({}\) must hold formulas by name"),
    ({"measures": ["val/loss"]}, r"measures \(.*\) must hold formulas by name"),
    ({"measures": {"loss": "val/loss +"}}, r"measures.loss \(.*\) "),
    (
        {"measures": {"loss": "above", "above": "loss - [val/loss]"}},
        r"measures.above \(.*\): loss is neither a number nor",
    ),
    ({"measures": {"my-loss": "val/loss"}}, "measures: 'my-loss' must be a name of letters, digits and _"),
    *(
        ({"arms": arms}, r"arms \(.*\) must hold two or more by name")
        for arms in (None, {"a": {}}, [{"a": 1}, {"b": 2}])
    ),
    ({"arms": {"a": "batch_size=1", "b": {}}}, r"arms.a \(batch_size=1\) must hold settings by name"),
    ({"arms": {"my-arm": {"batch_size": 1}, "b": {}}}, "arms: 'my-arm' must be a name of letters, digits and _"),
    ({"arms": {"a": {"batch_size": 1}, "b": {"batch_size": 1}}}, "arms.b has the settings of arms.a"),
    ({"arms": {"a": {"batch_size": 8}, "b": {}}}, "arms.b has the settings of arms.a"),
    *(
        ({"arms": {"a": {key: 1}, "b": {}}}, rf"arms.a.{re.escape(key)} is settled by attnlab replicate")
        for key in ("seed", "plan", "report.sequential", "+sweep", "hydra.launcher.n_jobs", "overwrite")
    ),
    ({"settings": {"experiment_name": "x"}}, "settings.experiment_name is settled"),
    ({"settings": {"allow_targets": ["os"]}}, r"settings.allow_targets \(.*os.*\) must be typed"),
    *(({"settings": settings}, r"settings \(.*\) must hold settings") for settings in ("data=parity", ["data=parity"])),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    """What is wrong with a claim is one line: which claim, which key, its value, and what may stand there."""
    with pytest.raises(UsageError, match=f"^claim tiny: {message}") as refused:
        claim(tmp_path, **changes)
    assert "\n" not in str(refused.value)
    with searching([tmp_path]), pytest.raises(UsageError, match=r"claim \(tny\) must be among: .*did you mean 'tiny'"):
        read_claims(["tny"])


def test_an_arm_that_stands_twice(tmp_path: Path) -> None:
    """YAML would take the last of the two, and the other would not be trained."""
    (tmp_path / "tiny.yaml").write_text("arms:\n  a: {batch_size: 1}\n  a: {batch_size: 2}\n")
    with pytest.raises(UsageError, match=r"is not YAML \(a stands twice in one place, line 2 or below\)"):
        parse_claim("tiny", tmp_path / "tiny.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {**TINY["settings"], "optimizer.l": 1}}, "short: optimizer.l is not a key .*'optimizer.lr'"),
        ({"settings": {**TINY["settings"], "attention": "multihead"}}, "short: attention=multihead does not exist"),
        ({"arms": {"short": {}, "long": {"model.n_heads": 3}}}, r"long: .*(n_heads|d_model)"),
        (
            {"settings": {**TINY["settings"], "evaluation.lengths": [2, 1]}},
            r"short: evaluation.lengths \(.*\) must be",
        ),
        (
            {"settings": {**TINY["settings"], "data.answer": "each", "data.min_length": 3}},
            r"short: data.min_length \(3\) must be at least 4",
        ),
        ({"settings": {"model": "tiny"}}, "short: ceiling/loss is a number of a task, and its data is a text"),
        ({"measures": {"loss": "val/los"}}, r"short \(val/los\) is not logged; did you mean 'val/loss'\?"),
        ({"measures": {"loss": "extrapolation_loss/x2"}}, r"short \(extrapolation_loss/x2\) is not logged"),
    ],
)
def test_refused_before_training(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    """A recipe that cannot be built, or that does not log what it is judged by, is told with its arm."""
    with pytest.raises(UsageError, match=f"^claim tiny, {message}"):
        check_metrics(claim(tmp_path, **changes), None)


def test_settings_of_an_arm(tmp_path: Path) -> None:
    """What an arm sets counts there in the place of what is set for all, and the others have that."""
    it = claim(tmp_path, arms={"short": {"batch_size": 4}, "long": {"+trainer.max_steps": 3}, "usual": None})
    assert it.own["short"] == {"batch_size": 4} and it.own["usual"] == {"batch_size": 8}
    assert it.own["long"] == {"batch_size": 8, "+trainer.max_steps": 3} and "batch_size" not in it.common
    assert "batch_size=4" in it.settings("short") and "batch_size=8" not in it.settings("short")
    sweep = it.sweep([0])
    assert sweep["axes"] == {it.axis: it.own} and sweep["settings"] == it.common
    assert {c.name: (c.common, c.own) for c in read_claims()} == {
        c.name: (c.recipe["settings"], c.recipe["arms"]) for c in read_claims()
    }


def test_a_claim_that_is_no_file(tmp_path: Path) -> None:
    """A device, a pipe or a link to nothing in the place of a claim is one line."""
    (tmp_path / "claim").mkdir()
    path = tmp_path / "claim" / "tiny.yaml"
    for make in (partial(path.symlink_to, "/dev/zero"), partial(path.symlink_to, "nothing"), partial(os.mkfifo, path)):
        make()
        with searching([tmp_path]), pytest.raises(UsageError, match="cannot be read"):
            read_claims(["tiny"])
        path.unlink()


def written(monkeypatch: pytest.MonkeyPatch, longer: float = 2.0) -> None:
    """Have a sweep write runs of its own in place of training: the long ones with this loss, one of them lost."""

    def train(folder: Path, name: str, design: Any, overrides: Any, **_: Any) -> None:
        experiment, seeds, entries = ExperimentFolder(folder), design["seeds"], []
        (axis,) = design["axes"]
        for arm, loss in (("short", 3.0), ("long", longer)):
            for seed in seeds:
                name = f"{arm}-{axis[-8:]}/seed_{seed}"
                path = experiment.path / name
                path.mkdir(parents=True, exist_ok=True)
                status = "diverged" if arm == "long" and len(seeds) == 6 and seed == seeds[0] else "finished"
                path.joinpath("metrics.csv").write_text(f"step,metric,value\n3,val/loss,{loss}\n")
                bounds = {"ceiling": {"loss": 0.5}}
                path.joinpath("summary.json").write_text(json.dumps({"status": status, "bounds": bounds, "seconds": 6}))
                entries.append({"folder": name, "levels": {axis: arm}, "seed": seed, "status": status})
        experiment.manifest.plan(entries, {})

    monkeypatch.setattr(replication, "train_design", train)


def test_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Trials are counted and judge nothing; the record holds every seed, lost ones too, and what an earlier recipe came
    to; asked again it stays as it is."""
    it, options_ = claim(tmp_path), {"n_jobs": 1, "config_dir": None}
    written(monkeypatch)
    runs, records = tmp_path / "ledger", tmp_path / "records"
    trial = replicate(it, runs, records, trial=[0, 1], **options_)  # type: ignore[arg-type]
    assert "verdict" not in trial and trial["arms"]["long"]["1"] == {"loss": 2.0, "above": 1.5}
    assert len(read_record(records / "tiny.json")["trials"]) == 4
    first = replicate(it, runs, records, trial=(), **options_)  # type: ignore[arg-type]
    assert first["verdict"] == HOLDS and first["minutes"] == 1.0 and len(first["trials"]) == 4
    assert [list(by_seed) for by_seed in first["arms"].values()] == [[str(s) for s in it.seeds]] * 2
    assert read_record(records / "tiny.json") == replicate(it, runs, records, trial=(), **options_)  # type: ignore[arg-type]
    written(monkeypatch, longer=4.0)
    again = replicate(it, runs, records, trial=(), **options_)  # type: ignore[arg-type]
    assert again["verdict"] != HOLDS and [(e["hash"], e["verdict"]) for e in again["earlier"]] == [(it.hash, HOLDS)]
    assert "This recipe, run before, came to *holds here*" in page(BEGIN, [(it, again)])
    written(monkeypatch)
    (records / "tiny.json").write_text(json.dumps(first))
    changed = claim(tmp_path, seeds=6)
    second = replicate(changed, runs, records, trial=(), **options_)  # type: ignore[arg-type]
    assert second["arms"]["long"][str(changed.seeds[0])] is None and second["verdict"] == "cannot tell"
    assert len(second["trials"]) == 14 and [e["hash"] for e in second["earlier"]] == [it.hash]
    show_list([(changed, second), (it, second), (it, {"name": "tiny", "trials": ["a"]})], Console(width=200))
    told = capsys.readouterr().out
    assert told.count("cannot tell") == 1 and told.count("not run as it stands now") == 1 and told.count("not run") == 2
    text = page(f"head {BEGIN} before", [(changed, second), (it, {"trials": ["a"]})])
    assert text.startswith("head") and "before" not in text and "Of 2 claims: 1 cannot tell, 1 not run" in text
    assert (
        "lost 2.000" in text
        and "An earlier recipe" in text
        and "14 runs were trials" in text
        and "so far: 1 runs" in text
    )
    with pytest.raises(UsageError, match=r"trial \(1000\) must be seeds below 1000"):
        check([it], runs, records, trial=[1000], config_dir=None)


def test_back_to_earlier_code(tmp_path: Path) -> None:
    """Runs that other code has planned or left, last in the manifest, do not stand for those that ended."""
    it, experiment = claim(tmp_path), ExperimentFolder(tmp_path / "tiny")
    entry = {"levels": {it.axis: "long"}, "seed": 7}
    ended = [{**entry, "folder": f"long-{i}/seed_7", "status": s} for i, s in enumerate(("finished", "diverged"))]
    left = {**entry, "folder": "long-2/seed_7", "status": "planned"}
    for entries, right in ((ended[:1], 0), (ended, 1), ([*ended[:1], left], 0), ([*ended, left], 1), ([left], 2)):
        assert _run(it, experiment, entries, "long", 7).path == experiment.path / f"long-{right}" / "seed_7"
    with pytest.raises(AttnlabError, match="no run of short with seed 7"):
        _run(it, experiment, [*ended, left], "short", 7)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"verdict": "holds"}', '{"trials": 3}', '{"trials": [{}], "earlier": []}']
)
def test_a_damaged_record(tmp_path: Path, content: str) -> None:
    """What an earlier command wrote, and cannot be read, is neither written over nor found out after the training."""
    (tmp_path / "tiny.json").write_text(content)
    with pytest.raises(UsageError, match="is no record of a claim"):
        check([claim(tmp_path)], tmp_path / "runs", tmp_path, trial=(), config_dir=tmp_path)
    assert (tmp_path / "tiny.json").read_text() == content and not (tmp_path / "runs").exists()


def test_page() -> None:
    """The page says what is recorded, and every record is what its rule makes of its numbers."""
    entries = [(it, read_record(RECORDS / f"{it.name}.json")) for it in read_claims()]
    text = PAGE.read_text(encoding="utf-8")
    assert page(text, entries) == text, "run: python -m docs.ledger"
    judged = [(it, record) for it, record in entries if record.get("hash") == it.hash]
    for it, record in judged:
        results = {arm: list(by_seed.values()) for arm, by_seed in record["arms"].items()}
        assert list(record["arms"]) == list(it.arms) and record["recipe"] == it.recipe
        assert all(list(map(int, by_seed)) == it.seeds for by_seed in record["arms"].values())
        verdict, answers = judge(it.rule, results)
        assert record["verdict"] == verdict and [a["verdict"] for a in record["answers"]] == [
            a.verdict for a in answers
        ]
    assert judged and {path.stem for path in RECORDS.glob("*.json")} <= {it.name for it, _ in entries}


def test_example(tmp_path: Path) -> None:
    """The example of the page is a claim that can be run."""
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "rates.yaml").write_text(example)
    it = parse_claim("rates", tmp_path / "rates.yaml")
    check_metrics(it, None)
    assert len(it.rule) == 2 and "optimizer.lr=3e-3" in it.settings("delta") and len(it.metrics) == 3


def test_example_with_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim may name a task beside its folder of configs, if its package is typed; the task keeps what it says."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    configs = PAGE.parent / "examples" / "configs"
    with searching([configs]):
        (it,) = read_claims(["relu_sink"])
    options_: dict[str, Any] = {"trial": (), "config_dir": configs}
    with pytest.raises(UsageError, match=r"claim relu_sink, softmax: data._target_ .* is not allowed: .*allow_targets"):
        check([it], Path("runs"), Path("runs"), **options_)
    check([it], Path("runs"), Path("runs"), **options_, packages=("trigger",))
    from trigger import ASK, FIRST, NOTHING, Trigger  # type: ignore[import-not-found]

    rows = Trigger(val_rows=64).validation(24)
    for inputs, targets in zip(rows.inputs, rows.targets, strict=True):
        for i, (token, wanted) in enumerate(zip(inputs, targets, strict=True)):
            votes = [int((inputs[:i] == FIRST + letter).sum()) for letter in range(4)]
            if token == ASK and votes.count(max(votes)) == 1:
                assert wanted == FIRST + votes.index(max(votes))
            else:
                assert wanted == (NOTHING if token != ASK and i else IGNORED)


def test_authors() -> None:
    """What authors' own code came to is of a recipe that was judged, today's or an earlier one, and of its first seeds;
    the page shows it."""
    text, checked = PAGE.read_text(encoding="utf-8"), sorted(AUTHORS.glob("*.json"))
    for path in checked:
        (it,), theirs = read_claims([path.stem]), read_record(path)
        record = read_record(RECORDS / path.name)
        (judged,) = (each for each in (record, *record.get("earlier", [])) if each["hash"] == theirs["hash"])
        assert set(theirs["arms"]) <= set(it.arms) and "@" in theirs["repository"]
        for arm, by_seed in theirs["arms"].items():
            assert [*by_seed] == [*judged["arms"][arm]][: len(by_seed)] and len(by_seed) >= 2
            for name in it.measures:
                values = " ".join(f"{run[name]:.3f}" for run in by_seed.values())
                assert f"| {arm} | {name} | {values} |" in text
    assert len(checked) >= 5


@pytest.mark.slow
def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """The command trains a claim of one's own, says what it came to, and trains nothing again."""
    from attnlab.cli import main

    claim(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["attnlab"])
    main(["replicate", "claim=tiny", "config_dir=.", "trial=0"])
    assert "fulfilled" not in capfd.readouterr().out
    main(["replicate", "claim=tiny", "config_dir=.", "records=here"])
    assert "[10/10] finished" in capfd.readouterr().out
    main(["replicate", "claim=tiny", "config_dir=.", "records=here"])
    told = capfd.readouterr().out
    assert (
        "finished " not in told.split("listed in")[0].split("5 finished")[-1] and "2 runs before it were trials" in told
    )
    record = read_record(tmp_path / "here" / "tiny.json")
    assert len(record["trials"]) == 2 and record["verdict"] in told
    assert len(Manifest(tmp_path / "runs" / "ledger" / "tiny" / "manifest.json").read()["runs"]) == 12
    assert not (config_dir() / "claim" / "tiny.yaml").exists()


@pytest.mark.slow
def test_command_with_a_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Runs find a task beside the folder of configs, from wherever the command was started."""
    from attnlab.cli import main

    shutil.copytree(PAGE.parent / "examples", tmp_path / "own")
    own: dict[str, Any] = {"settings": {**TINY["settings"], "data": "trigger"}, "measures": {"loss": "val_loss/letter"}}
    claim(tmp_path / "own" / "configs", **own)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    main(["replicate", "claim=tiny", f"config_dir={tmp_path / 'own' / 'configs'}", "allow_targets=trigger", "trial=0"])
    assert "[2/2] finished" in capfd.readouterr().out
