"""Somebody else's run: each way to damage or to arm it ends in one line, changes nothing, or is harmless.

The fast part takes a sample of the cases; the slow ones take all of them, and random bits of every kind of file. The
number of cases and of those that were noticed is printed (pytest -s).
"""

import contextlib
import csv
import hashlib
import io
import json
import os
import random
import re
import resource
import shutil
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.analysis.folders import write_arm
from tests.reliability.strangers import (
    COMMANDS,
    Damage,
    Outcome,
    checkpoint,
    config,
    copied,
    cut,
    files_below,
    finished_run,
    flipped,
    link,
    looked_at,
    text,
    typed,
)
from tests.training.launch import unseal

from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.cli import main
from attnlab.machine import limits
from attnlab.store.run_folder import RunFolder

T, PARTIAL = "_target_", {"_partial_": True}
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefghij", "bcdefghijk", strict=True)
)
ENTRY = {"folder": "gqa-1/seed_9", "variant": "gqa", "label": "a", "overrides": ["a=1"], "levels": {}, "seed": 9}
ODD: Mapping[str, Any] = {
    **{"a number": 3, "null": None, "a list": [1], "a text": "x", "settings": {"a": {"b": 1}}, "true": True},
    **{"digits": 10**40, "nan": float("nan"), "escape": "\x1b[31m<b>\n"},
}


def of_json(name: str, **changes: Any) -> Damage:
    """Other values in a JSON file of the run."""

    def change(run: Path) -> None:
        content = json.loads((run / name).read_text())
        (run / name).write_text(json.dumps({**content, **changes}))

    return change


def manifest(content: Any) -> Damage:
    """A manifest of the experiment."""

    def write(run: Path) -> None:
        (run.parents[1] / "manifest.json").write_text(content if isinstance(content, str) else json.dumps(content))

    return write


def pipe(name: str) -> Damage:
    """A pipe without a writer in the place of a file: who reads it waits for ever."""

    def put(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)

    return put


def folder(name: str) -> Damage:
    """A folder in the place of a file."""

    def put(run: Path) -> None:
        (run / name).unlink()
        (run / name).mkdir()

    return put


def sparse(name: str) -> Damage:
    """A file that is larger than memory, and takes no room."""

    def grow(run: Path) -> None:
        os.truncate(run / name, 10 << 30)

    return grow


PARTS = "step_00000009.parts"


def in_parts(damage: Damage) -> Damage:
    """A newest checkpoint that is a folder, with one file that a damage puts there."""

    def put(run: Path) -> None:
        (run / "checkpoints" / PARTS).mkdir()
        damage(run)
        parts = {"a.safetensors": {"size": 5, "sha256": "0"}}
        sha256 = hashlib.sha256(b"0  a.safetensors\n").hexdigest()
        listed = {PARTS: {"step": 9, "size": 5, "sha256": sha256, "parts": parts}}
        (run / "checkpoints" / "manifest.json").write_text(json.dumps({"files": listed}))

    return put


def state(change: Any) -> Damage:
    """Other weights in all checkpoints; `change` gets them and the name of a matrix."""

    def changed(content: Any) -> Any:
        weights = dict(content["state_dict"])
        change(weights, next(name for name, tensor in weights.items() if tensor.ndim == 2))
        return {**content, "state_dict": weights}

    return checkpoint(changed)


def without(key: str) -> Damage:
    return checkpoint(lambda content: {k: v for k, v in content.items() if k != key})


def tokens(change: Any) -> Damage:
    """Another tokenizer.json, made of what it holds."""

    def write(run: Path) -> None:
        content = json.loads((run / "tokenizer.json").read_text())
        (run / "tokenizer.json").write_text(json.dumps({**content, **change(content)}))

    return write


def _slots() -> Iterator[tuple[str, Damage, list[str]]]:
    for target in (
        "attnlab.sweep.pool.Worker",
        "attnlab.sweep.pool.Pool",
        "attnlab.store.manifest.Manifest",
        "attnlab.inspection.tab.plugin.AttentionTab",
        "attnlab.data.corpus.Download",
        "os.system",
        "builtins.eval",
    ):
        for key in ("attention__x", "attention__mask", "attention", "position__inside", "position__embed", "model__x"):
            for partial in (True, False):
                yield f"{target} as {key} {partial}", config(**{key: {T: target, "_partial_": partial}}), ["generate"]
    fetched = {T: "attnlab.data.corpus.Download", "name": "a", "url": "http://localhost:9/", "sha256": "0" * 64}
    yield "a fetched text", config(data={**fetched, "folder": "evil"}), ["evaluate", "ablate_heads"]
    places = {"runs": "evil", "cache": "evil", "data": "evil"}
    yield "other places", config(paths=places), ["generate", "evaluate", "ablate_heads", "maps"]


def _sizes() -> Iterator[tuple[str, Damage, list[str]]]:
    wrapped: dict[str, Any] = {T: "attnlab.attention.simple.SimpleAttention", **PARTIAL}
    for _ in range(2):
        owner = {T: "attnlab.attention.head_wrapper.HeadWrapper", **PARTIAL, "n_heads": 512, "pattern": "a"}
        wrapped = {**owner, "kinds": {"a": wrapped}}
    for key, value in {
        "model__context": 10**9,
        "model__n_layers": 10**9,
        "model__d_model": 2**40,
        "model__mlp_ratio": 1e300,
        "attention__conv": 10**12,
        "attention__head_dim": 2**33,
        "attention__mask": {T: "attnlab.attention.mask.Window", **PARTIAL, "window": 10**15},
        "attention": wrapped,
    }.items():
        yield f"{key} too large", config(**{key: value}), ["generate", "maps"]


def _configs() -> Iterator[tuple[str, Damage, list[str]]]:
    for name, content in {
        "aliases": f"{BOMB}model: *k\nattention: {{}}\n",
        "a circle": "a: &a [*a]\n",
        "brackets": "[" * 200_000,
        "a very long one": "a: 1\n" * 400_000,
        "code": "a: !!python/object/apply:os.system ['touch evil']\n",
        "a date": "a: 2020-99-99\n",
        "digits": f"a: {'9' * 5000}\n",
        "odd kinds": "a: !!binary xx\nb: !!set {a, b}\n? [1, 2]\n: 3\n",
        "odd keys": "1: 2\nnull: 3\nmodel: {}\nattention: {}\nposition: {}\nstreams: {}\n",
        "nothing": "",
    }.items():
        yield f"config.yaml of {name}", text("config.yaml", content), ["generate", "report"]
    for key in ("model", "attention", "position", "streams", "data", "match", "model__d_model", "attention__mask"):
        for name, value in ODD.items():
            yield f"{key} is {name}", config(**{key: value}), ["generate", "evaluate", "report"]


def _checkpoints() -> Iterator[tuple[str, Damage, list[str]]]:
    contents: dict[str, Damage] = {
        "empty": checkpoint(lambda _: b""),
        "a text": checkpoint(lambda _: b"hello"),
        "a list": checkpoint(lambda _: [1, 2]),
        "without weights": without("state_dict"),
        "without settings": without("fingerprint"),
        "without a step": without("global_step"),
        "of a list": checkpoint(lambda content: {**content, "state_dict": [1]}),
        "of other settings": checkpoint(
            lambda content: {**content, "fingerprint": {**content["fingerprint"], "model.dropout": 0.5}}
        ),
        "of another text": checkpoint(
            lambda content: {**content, "fingerprint": {**content["fingerprint"], "tokenizer.sha256": "x"}}
        ),
        "of another shape": state(lambda weights, name: weights.update({name: torch.ones(3, 3)})),
        "of nan": state(lambda weights, name: weights[name].fill_(torch.nan)),
        "of infinity": state(lambda weights, name: weights[name].fill_(torch.inf)),
        "that lacks a matrix": state(lambda weights, name: weights.pop(name)),
        "of a number": state(lambda weights, name: weights.update({name: 5})),
        "of complex numbers": state(lambda weights, name: weights.update({name: weights[name] + 1j})),
        "of one number for all": state(
            lambda weights, name: weights.update({name: torch.ones(1).expand(10**6, 10**6)})
        ),
    }
    for name, damage in contents.items():
        yield f"a checkpoint {name}", damage, ["generate", "maps", "evaluate"]
    listed = {"step": 9, "size": 5, "sha256": "0"}
    for name, files in {
        "a device": {"/dev/zero": listed},
        "one elsewhere": {"../../../../../../dev/zero": listed},
        "100,000": {f"a{i}": {**listed, "step": i} for i in range(100_000)},
        "none": {},
        "a list": [],
        "a number": {"a": 3},
        "no name": {"": listed},
    }.items():
        yield f"checkpoints: {name}", text("checkpoints/manifest.json", json.dumps({"files": files})), ["generate"]


def _others() -> Iterator[tuple[str, Damage, list[str]]]:
    every = ["generate", "evaluate", "ablate_heads", "report"]
    names = ("config.yaml", "tokenizer.json", "summary.json", "metrics.csv", "checkpoints/manifest.json")
    for name in names:
        yield f"{name} a device", link(name, "/dev/zero"), every
        yield f"{name} elsewhere", link(name, "/etc/hostname"), every
        yield f"{name} a circle", link(name, Path(name).name), every
        yield f"{name} a pipe", pipe(name), every
        yield f"{name} brackets", text(name, "[" * 100_000), every
        yield f"{name} no text", text(name, b"\xff\xfe\x00"), every
        yield f"{name} a folder", folder(name), every
        yield f"{name} of 10 GiB", sparse(name), every
    yield "a part of a checkpoint is a pipe", in_parts(pipe(f"checkpoints/{PARTS}/a.safetensors")), ["generate"]
    yield (
        "a part of a checkpoint elsewhere",
        in_parts(link(f"checkpoints/{PARTS}/a.safetensors", "/etc/hostname")),
        every,
    )
    for name in ("maps", "checkpoints"):
        yield f"{name} elsewhere", link(name, "/tmp"), [*every, "maps"]
    for name, change in {
        "refers back": {"pattern": r"(a)\1|."},
        "tries for ever": {"pattern": "(?:a|aa)+(?!a)b|(?: |1|11)+(?!1)b|a"},
        "cuts into nothing": {"pattern": "a*"},
        "is no pattern": {"pattern": "("},
        "has few ranks": {"n_ranks": 10},
        "has no tokens": {"tokens": []},
        "is of another kind": {"kind": [1]},
    }.items():
        yield f"a tokenizer that {name}", tokens(lambda _, change=change: change), ["generate"]
    yield "a token twice", tokens(lambda old: {"tokens": [*old["tokens"][:-1], old["tokens"][0]]}), ["generate"]
    for name, value in ODD.items():
        for key in ("status", "variant", "hash", "seed", "step", "val_loss", "started", "extrapolation", "tokens"):
            yield f"summary.json: {key} is {name}", of_json("summary.json", **{key: value}), ["report", "evaluate"]
        for key in ENTRY:
            entries = [{**ENTRY, key: value}]
            yield f"an entry's {key} is {name}", manifest({"runs": entries}), ["report"]
        for key in ("command", "baseline", "design", "metric", "alpha", "margin"):
            yield f"manifest.json: {key} is {name}", manifest({key: value, "runs": [ENTRY]}), ["report"]
    for value in ("word", "0x1p3", "9" * 5000, "1_0", "٣", "", "1,2", "nan"):
        rows = f"step,metric,value\n0,val/loss,3\n4,val/loss,{value}\n"
        yield f"metrics.csv: {value[:9]!r}", text("metrics.csv", rows), ["report", "evaluate"]
        yield f"metrics.csv, step: {value[:9]!r}", text("metrics.csv", f"{rows}{value},val/loss,2\n"), ["report"]
    yield (
        "100,000 planned",
        manifest({"runs": [{**ENTRY, "folder": f"v-{i}/seed_0"} for i in range(100_000)]}),
        ["report"],
    )
    yield "HTML in a name", manifest({"runs": [{**ENTRY, "variant": "<script>alert(1)</script>"}]}), ["report"]


CASES = [
    (name, damage, commands)
    for group in (_slots, _sizes, _configs, _checkpoints, _others)
    for name, damage, commands in group()
]
SAMPLE = 25  # cases of the fast part


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run, in an experiment with others that are sound."""
    run = finished_run(tmp_path_factory.mktemp("finished"))
    for variant in ("gqa", "multi_head"):
        write_arm(run.parents[1], variant, [3.0, 3.1])
    return run


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and an empty current folder."""

    def no_network(*_: Any, **__: Any) -> None:
        raise AssertionError("a finished run reaches the network")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def checked(finished: Path, folder: Path, damage: Damage, command: str, *, sealed: bool = True) -> Outcome:
    """Damage a copy, look at it, and see that nothing was written anywhere else.

    Not `sealed`, the damage was done by somebody who made the sums fit, or took them away.
    """
    run = copied(finished, folder / "copy")
    damage(run)
    if not sealed:
        unseal(run)
    outcome = looked_at(run, command, folder / "out")
    assert not list(Path.cwd().iterdir()), f"{command} writes {list(Path.cwd().iterdir())}"
    assert sorted(entry.name for entry in folder.iterdir() if entry.name != "out") == ["copy", "here"]
    return outcome


def _run(finished: Path, folder: Path, cases: list[tuple[str, Damage, list[str]]]) -> None:
    faults, noticed, n = [], 0, 0
    for name, damage, commands in cases:
        for command in commands:
            outcome, n = checked(finished, folder, damage, command, sealed=False), n + 1
            noticed += outcome.noticed or "damaged" in outcome.out
            if outcome.fault:
                faults.append(f"{name}, {command}: {outcome.fault}")
    print(f"strangers: {n - len(faults)} of {n} in one line or harmless, {noticed} of them noticed")
    assert not faults, "\n".join(faults)


def test_sample(finished: Path, tmp_path: Path) -> None:
    """A sample of the cases, another one in each version of this file."""
    cases = random.Random(len(CASES)).sample(CASES, SAMPLE)
    _run(finished, tmp_path, [(name, damage, commands[:1]) for name, damage, commands in cases])


@pytest.mark.slow
def test_all(finished: Path, tmp_path: Path) -> None:
    """Every case with every command, and no more memory than is allowed for one."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _run(finished, tmp_path, CASES)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < limits.MEMORY_BYTES >> 10


KINDS = (
    *("config.yaml", "tokenizer.json", "metrics.csv", "summary.json", "code.json", "checkpoints/manifest.json"),
    *("checkpoints/*2.ckpt", "checkpoints/*4.ckpt", "maps/last.safetensors", "events.*"),
)


@pytest.mark.parametrize("n", [12, pytest.param(1000, marks=pytest.mark.slow)])
def test_corruptions(finished: Path, tmp_path: Path, n: int) -> None:
    """A bit that is flipped, or a file that is cut off, is noticed, or the answer is what it was."""
    usual = {command: checked(finished, tmp_path, lambda _: None, command).out for command in (*COMMANDS, "report")}
    draw, faults, ends = random.Random(n), [], Counter[str]()
    for i in range(n):
        name, command = draw.choice(KINDS), draw.choice([*usual])
        damage = (
            cut(name, draw.random()) if i % 4 == 0 else flipped(name, draw.randrange(10**6), 1 << draw.randrange(8))
        )
        outcome = checked(finished, tmp_path, damage, command)
        end = "noticed" if outcome.noticed or "damaged" in outcome.out else "same" if command == "explain" else "other"
        end = "same" if end == "other" and outcome.out == usual[command] else end
        ends["fault" if outcome.fault else end] += 1
        if outcome.fault or end == "other":
            faults.append(f"{name}, {command}: {outcome.fault or outcome.out[-200:]}")
    print(f"corruptions: {ends['noticed'] + ends['same']} of {n} noticed or harmless ({dict(ends)})")
    assert not faults, "\n".join(faults)


def test_newest_damaged_is_said(finished: Path, tmp_path: Path) -> None:
    """The older checkpoint answers, and a line says so; where both are damaged, none does."""
    outcome = checked(finished, tmp_path, flipped("checkpoints/*4.ckpt", 999), "generate")
    assert outcome.code == 0 and outcome.err.startswith("warning: step_00000004.ckpt was changed after it was written")

    def both(run: Path) -> None:
        flipped("checkpoints/*4.ckpt", 999)(run)
        flipped("checkpoints/*2.ckpt", 999)(run)

    assert checked(finished, tmp_path, both, "generate").code == 5


def test_one_damaged_folder_is_counted(finished: Path, tmp_path: Path) -> None:
    outcome = checked(finished, tmp_path, text("summary.json", "[" * 100_000), "report")
    assert outcome.code == 0 and "damaged: " in outcome.out and "gqa" in outcome.out


def test_time_and_memory_are_bounded(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model within all sizes that takes more memory than is allowed is refused in a line that says how to lift it."""

    def greedy(*_: Any) -> Any:
        return torch.empty(3 << 30, dtype=torch.uint8).fill_(1)

    monkeypatch.setattr(MultiHeadAttention, "step", greedy)
    outcome = checked(finished, tmp_path, lambda _: None, "generate")
    assert outcome.code == 2 and "takes more than 2 GiB of memory; if you trust this run, limits=false" in outcome.err
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(limits, "SECONDS", 0.2)
    with limits.limited(True):
        while not ended:
            sum(range(1000))
    assert ended[0] == 2


def test_pages_hold_names_as_text(finished: Path, tmp_path: Path) -> None:
    """Names from a folder are neither HTML nor Markdown nor formulas in what a report writes."""
    name = "<img src=x onerror=alert(1)>[a](javascript:b)`c`"
    run = copied(finished, tmp_path / "copy")
    entries = [{**ENTRY, "variant": name, "reason": "=1+1", "status": "failed", "folder": f"{name}-1/seed_0"}]
    manifest({"runs": entries})(run)
    typed("report", f"experiment={run.parents[1]}", f"out={tmp_path / 'out'}")
    pages = dict(files_below(tmp_path / "out"))
    for page in ("report.md", "report.html"):
        assert b"<img" not in pages[page] and b"onerror" in pages[page]
    assert b"](java" not in pages["report.md"] and b",=1+1" not in pages["runs.csv"]


def test_pages_hold_nothing_that_acts(finished: Path, tmp_path: Path) -> None:
    """Nor do pages hold what turns or hides the text around it, and no cell of a head is a formula."""
    run = copied(finished, tmp_path / "copy")
    write_arm(run.parents[1], "=1+1", [3.0, 3.1], settings={"model.dropout": 0.5})
    content: dict[str, Any] = {
        "created": "2026-01-01T00:00:00",
        "hypothesis": "\x1b[31m\u202ered",
        "baseline": "multi_head",
    }
    content |= {"metric": "val/loss", "margin": None, "alpha": 0.05, "seeds": [0], "family": ["gqa"]}
    promise = {"sha256": "", **content, "runs": ["\u202ex/seed_0"]}
    (run.parents[1] / "preregistration.json").write_text(json.dumps(promise))
    looks = [{"set": "x", "at": "\u202e", "runs": 1, "seeds": 1}]
    touches = [{"runs": [], "at": "\u202e"}, {"runs": 3}, {"runs": None, "at": 1}, 4]
    manifest({"runs": [], "looks_taken": looks, "test_part_touched": touches})(run)
    outcome = typed("report", f"experiment={run.parents[1]}", f"out={tmp_path / 'out'}")
    assert (outcome.code, outcome.fault) == (0, "")
    for name, data in files_below(tmp_path / "out"):
        assert not ACTS.search(data.decode()), name
    cells = [cell for row in csv.reader((tmp_path / "out" / "settings.csv").read_text().splitlines()) for cell in row]
    assert any("=1+1" in cell for cell in cells) and not any(cell.startswith("=") for cell in cells)
    outcome = typed("final_test", f"experiment={run.parents[1]}")
    assert not outcome.fault and not ACTS.search(outcome.err)


ACTS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("name", ["\x1b[31mred", "\u202egnp.x", "\udcff", "=cmd()"])
def test_names_act_on_no_terminal(finished: Path, tmp_path: Path, name: str) -> None:
    """Whatever the folder of a run is called, and its manifest says, commands print text and pages hold it."""
    run = copied(finished, tmp_path / "copy")
    run = run.parent.rename(run.parent.with_name(f"{name}-12345678.abcd")) / run.name
    looks = [{"set": "x", "at": name, "runs": 1, "seeds": 1}]
    manifest({"runs": [], "looks_taken": looks, "test_part_touched": [{"runs": [], "at": name}]})(run)
    for command in (*COMMANDS, "report"):
        outcome = looked_at(run, command, tmp_path / command)
        told = outcome.err if command == "generate" else outcome.out + outcome.err  # what a model writes is a file's
        assert (outcome.code, outcome.fault) == (0, "") and not ACTS.search(told), command
    assert not ACTS.search(RunFolder(run).title)


def test_a_model_acts_on_no_terminal(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it writes is spelled there, and goes into a file as it is."""
    monkeypatch.setattr("attnlab.data.tokenizers.Tokenizer.token_bytes", lambda *_: b"\x1b[2J")
    run = copied(finished, tmp_path / "copy")
    words = ["generate", f"run={run}", "prompt=1", "tokens=1"]
    with contextlib.redirect_stdout(Screen()) as screen:
        main(words)
    assert (typed(*words).out, screen.getvalue()) == ("1\x1b[2J\n", "1\\x1b[2J\n")


def test_what_leads_out_is_not_written(finished: Path, tmp_path: Path) -> None:
    """A lock, or the folder of a run, that is a link to somewhere else."""
    run = copied(finished, tmp_path / "copy")
    (run.parents[1] / ".manifest.lock").symlink_to(tmp_path / "elsewhere")
    outcome = typed("report", f"experiment={run.parents[1]}")
    assert outcome.code == 0 and "this look could not be counted" in outcome.out
    assert not (tmp_path / "elsewhere").exists()
    (run.parents[1] / ".manifest.lock").unlink()
    (tmp_path / "pages").mkdir()
    for command, name in (("report", "report"), ("final_test", "report_of_test")):
        shutil.rmtree(run.parents[1] / name, ignore_errors=True)
        (run.parents[1] / name).symlink_to(tmp_path / "pages")
        outcome = typed(command, f"experiment={run.parents[1]}")
        assert outcome.code == 2 and "leads out of" in outcome.err and not [*(tmp_path / "pages").iterdir()]
    run.parent.rename(tmp_path / "there").joinpath(run.name)
    run.parent.symlink_to(tmp_path / "there")
    before = dict(files_below(tmp_path / "there"))
    outcome = typed("final_test", f"experiment={run.parents[1]}")
    assert outcome.code == 2 and "leads out of" in outcome.err and dict(files_below(tmp_path / "there")) == before


def test_secrets_are_not_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a config takes from the environment is in no file of the run, which is still evaluated."""
    monkeypatch.setenv("ATTNLAB_TEST_TOKEN", "hunter2secret")
    home = tmp_path / "hunter2secret"
    home.mkdir()
    (home / "text.txt").write_text("one two three four five six seven\n" * 20)
    words = [f"paths.data={tmp_path}/${{oc.env:ATTNLAB_TEST_TOKEN}}", "data.path=${paths.data}/text.txt"]
    run = finished_run(tmp_path, *words)
    stored = dict(files_below(run))
    assert b"${paths.data}/text.txt" in stored["config.yaml"]
    assert not [name for name, data in stored.items() if b"hunter2" in data]
    shutil.copytree(run, tmp_path / "run")
    assert typed("evaluate", f"run={tmp_path / 'run'}", "lengths=2").code == 0
