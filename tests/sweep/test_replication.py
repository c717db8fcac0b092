"""Published claims: every file says what it must, and a tiny one is trained, judged and counted."""

import json
import os
import re
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
from attnlab.errors import UsageError
from attnlab.store.experiment_folder import ExperimentFolder
from attnlab.store.manifest import Manifest
from attnlab.sweep import replication
from attnlab.sweep.claim import Claim, parse_claim, read_claims
from attnlab.sweep.ledger import show_list
from attnlab.sweep.replication import check_metrics, read_record, replicate

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


def test_recipe_without_its_metric(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"claim tiny, short \(extrapolation_loss/x2\) is not logged"):
        check_metrics(claim(tmp_path, measures={"loss": "extrapolation_loss/x2"}), None)


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rul": []}, r"claim tiny: rul is not a key; did you mean 'rule'\?"),
        ({"claim": None}, "claim tiny: claim .* must be a sentence"),
        ({"source": " "}, "claim tiny: source .* must be a sentence"),
        ({"minutes": "long"}, "claim tiny: minutes"),
        ({"rule": []}, "claim tiny: rule must list inequalities"),
        ({"rule": ["loss(longer) > 0"]}, r"longer is not one of short, long; did you mean 'long'\?"),
        ({"rule": [f"loss(long) > {i}" for i in range(4)]}, r"seeds \(5\) must be at least 7"),
        ({"measures": {}}, "claim tiny: arms must hold two or more by name"),
        ({"measures": {"loss": "val/loss +"}}, r"claim tiny: measures.loss \(.*\) "),
        ({"arms": {"short": {}}}, "arms must hold two or more by name"),
        ({"arms": {"a": {"seed": 1}, "b": {}}}, "seed is settled by attnlab replicate"),
        ({"arms": {"short": {"batch_size": 1}, "long": {}}}, "batch_size is set for all arms and for short"),
        ({"settings": {"experiment_name": "x"}}, "experiment_name is settled"),
        ({"settings": {"allow_targets": ["os"]}}, "allow_targets .* must be typed"),
        ({"source": "\x1b[2J"}, "source .* must be a sentence"),
        ({"seeds": 10**9}, "seeds a number up to 1000"),
    ],
)
def test_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        claim(tmp_path, **changes)
    with searching([tmp_path]), pytest.raises(UsageError, match=r"claim \(tny\) must be among: .*did you mean 'tiny'"):
        read_claims(["tny"])


def test_a_claim_that_is_no_file(tmp_path: Path) -> None:
    """A device, a pipe or a link to nothing in the place of a claim is one line."""
    (tmp_path / "claim").mkdir()
    path = tmp_path / "claim" / "tiny.yaml"
    for make in (partial(path.symlink_to, "/dev/zero"), partial(path.symlink_to, "nothing"), partial(os.mkfifo, path)):
        make()
        with searching([tmp_path]), pytest.raises(UsageError, match="cannot be read"):
            read_claims(["tiny"])
        path.unlink()


def written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a sweep write runs of its own in place of training: the long ones better by 1, one of them lost."""

    def train(folder: Path, name: str, design: Any, overrides: Any, **_: Any) -> None:
        experiment, seeds, entries = ExperimentFolder(folder), design["seeds"], []
        (axis,) = design["axes"]
        for arm, loss in (("short", 3.0), ("long", 2.0)):
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
    monkeypatch.setattr(replication, "check_metrics", lambda *_: None)


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
        replicate(it, runs, records, trial=[1000], **options_)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "content", ["", "[]", '{"verdict": "holds"}', '{"trials": 3}', '{"trials": [{}], "earlier": []}']
)
def test_a_damaged_record(tmp_path: Path, content: str) -> None:
    """What an earlier command wrote, and cannot be read, is neither written over nor found out after the training."""
    (tmp_path / "tiny.json").write_text(content)
    with pytest.raises(UsageError, match="is no record of a claim"):
        replicate(claim(tmp_path), tmp_path / "runs", tmp_path, trial=(), n_jobs=1, config_dir=tmp_path)
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
