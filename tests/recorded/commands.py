"""Commands of README and docs, with what they end with, which files they make and the numbers that come out.

`python -m tests.recorded.commands FOLDER` types them in FOLDER, one after the other, and writes `commands.json`; the
slow test beside it types them again and compares. Words of messages, times and the hash of the code are left out, so
that whatever moves no number changes nothing here.
"""

import csv
import hashlib
import io
import json
import os
import platform
import re
import runpy
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from attnlab.cli import main

ROOT, RECORDED = Path(__file__).parents[2], Path(__file__).with_name("commands.json")
TRAIN, ATTNLAB = "train.py", "attnlab"
STEPS = "trainer.max_steps=4"
TINY = (
    *("model=tiny", "model.d_model=16", "tokenizer=byte", "batch_size=4", STEPS, "maps.steps=2"),
    *("sample.steps=1", "sample.tokens=8", "trainer.threads=1", "trainer.precision=fp32"),
    *("trainer.attention_dtype=fp32", "trainer.accelerator=cpu", "trainer.progress=false"),
)
RUN = "run=runs/default/multi_head-*/seed_0"
TASK = (
    *(setting for setting in TINY if not setting.startswith("tokenizer=")),
    *("data=mqar", "data.n_vocab=64", "data.val_rows=32", "attention=linear", "evaluation.lengths=[2]"),
)
OWN = ("--config-dir", "configs", "attention=my_rule", "allow_targets=[my_rule]")
RATES = ("attention=multi_head", "over=optimizer.lr=1e-3,2e-3,3e-3,4e-3", "seeds=100", "extend=0")

# What is typed, in this order. A star stands for what a shell would put there; TINY is added to what trains.
COMMANDS: dict[str, tuple[str, ...]] = {
    "version": (ATTNLAB, "--version"),
    "help": (ATTNLAB, "--help"),
    **{f"help {name}": (ATTNLAB, name, "--help") for name in ("explain", "report", "tune")},
    "wrong command": (ATTNLAB, "explian"),
    "wrong argument": (ATTNLAB, "explain", "atention=gqa"),
    "missing argument": (ATTNLAB, "generate", "run=runs/default"),
    "new": (ATTNLAB, "new", "name=my_rule"),
    "train help": (TRAIN, "--help"),
    "wrong variant": (TRAIN, "attention=gqaa"),
    "wrong key": (TRAIN, "trainer.max_step=5"),
    "wrong value": (TRAIN, "trainer.max_steps=many"),
    "cfg": (TRAIN, "--cfg", "job", "attention=gqa"),
    "train": (TRAIN, *TINY),
    "train again": (TRAIN, *TINY),
    "generate": (ATTNLAB, "generate", RUN, "prompt=The goat", "tokens=16", "temperature=0.8", "top_k=50"),
    "maps": (ATTNLAB, "maps", RUN, "prompt=The goat ate the shirt.", "layers=0", "heads=0,1"),
    "explain run": (ATTNLAB, "explain", RUN, "prompt=Nobody opens the box.", "layer=1"),
    "ablate_heads": (ATTNLAB, "ablate_heads", RUN, "tokens=512"),
    "check": (ATTNLAB, "check", "attention=multi_head", "laws=shape,causality,map", "attention/mask=window"),
    "check own": (
        *(ATTNLAB, "check", "attention=my_rule", "config_dir=configs", "allow_targets=my_rule"),
        "laws=shape,causality",
    ),
    "explain": (ATTNLAB, "explain", "attention=sigmoid", "against=multi_head"),
    "explain setting": (ATTNLAB, "explain", "attention=sliding_window", "attention.mask.window=2", "token=step"),
    "wrong folder": (ATTNLAB, "maps", "run=runs/nothing", "prompt=x"),
    "attnlab train": (ATTNLAB, "train", *TINY),
    "slots": (TRAIN, *TINY, "attention=gqa", "attention/mask=window", "attention.mask.window=8"),
    "own text": (TRAIN, *TINY, "data=file", "data.path=my.txt", "experiment_name=own"),
    "prompt": (TRAIN, *TINY, 'maps.prompt="Nobody opens the box."', "experiment_name=prompt"),
    "task": (TRAIN, *TASK, "experiment_name=task"),
    "evaluate": (ATTNLAB, "evaluate", "run=runs/task/linear-*/seed_0", "lengths=2,4"),
    "resume_from": (TRAIN, *TINY, "resume_from=runs/default/multi_head-*/seed_0", "experiment_name=more"),
    "match": (TRAIN, *TINY, "attention=mqa", "match=params", "experiment_name=match"),
    "another variant": (TRAIN, *TINY, "attention=gated_delta"),
    "no weights": (TRAIN, *TINY, "attention=simple"),
    "scores": (TRAIN, *TINY, "attention/normalizer=softmax1", "attention/score=[scaled,qk_norm]", "position=alibi"),
    "optimizer": (TRAIN, *TINY, "optimizer=muon", "optimizer.lr=0.02", "seed=1"),
    "overwrite": (TRAIN, *TINY, "overwrite=true"),
    "train own": (TRAIN, *OWN, *TINY),
    "plan": (TRAIN, "-m", *TINY, "attention=multi_head,linear", "seed=range(3)", "plan=true", "experiment_name=plan"),
    "design": (TRAIN, "-m", *TINY, "+sweep=normalizers", "plan=true", "experiment_name=design"),
    "sweep": (TRAIN, "-m", *TINY, "attention=multi_head,linear", "seed=range(4)", "experiment_name=two"),
    "report": (ATTNLAB, "report", "experiment=runs/two"),
    "report options": (
        *(ATTNLAB, "report", "experiment=runs/two", "baseline=linear", "margin=0.02", "alpha=0.1"),
        *("metric=val/bits_per_byte", "out=elsewhere"),
    ),
    "wrong baseline": (ATTNLAB, "report", "experiment=runs/two", "baseline=gqa"),
    "promise": (
        *(TRAIN, "-m", *TINY, "attention=multi_head,gqa", "seed=range(1)", "preregister=true", "report.margin=0.02"),
        *("experiment_name=promise", "report.hypothesis=shared keys cost nothing"),
    ),
    "tune": (ATTNLAB, "tune", "experiment=runs/tuning", *RATES, *(word for word in TINY if word != STEPS), "budgets=4"),
    "tune read": (ATTNLAB, "tune", "experiment=runs/tuning"),
    "tuned": (TRAIN, *TINY, "tuned=runs/tuning", "experiment_name=tuned"),
    "card": (ATTNLAB, "card", "attention=multi_head", "cells=parity", "trainer.max_steps=2", "data.val_rows=16"),
}
NUMBERS_OF_A_RUN = ("val_loss", "best_val_loss", "train_loss", "parameters", "tokens", "n_vocab", "extrapolation")
TIMES = ("seconds", "tokens_per_second", "memory")


def type_all(home: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Type every command in a folder, all in this process, and say what came of each."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "my.txt").write_text("\n".join(f"{i} times {i + 7} is {i * (i + 7)}." for i in range(300)))
    before, argv, path = Path.cwd(), sys.argv, sys.path[:]
    os.chdir(home)
    sys.path.insert(0, str(home))
    try:
        for name, words in COMMANDS.items():
            yield name, _entry(home, words)
    finally:
        os.chdir(before)
        sys.argv, sys.path[:] = argv, path


def _entry(home: Path, words: tuple[str, ...]) -> dict[str, Any]:
    before = _files(home)
    code, out, err = _type([words[0], *(_expanded(home, word) for word in words[1:])])
    after = _files(home)
    new = sorted(path for path in after if after[path] != before.get(path))
    entry: dict[str, Any] = {"exit": code, "files": sorted({_stable(str(path)) for path in new})}
    if code not in (0, 1, 2):
        entry["error"] = err
    numbers = {_stable(str(path)): values for path in new if (values := dict(_numbers(home / path)))}
    if "generate" in words:
        numbers["text"] = {"sha256": hashlib.sha256(out.encode()).hexdigest()}
    if "check" in words:
        counts = re.search(r"(\d+) kept, (\d+) broken.*?, (\d+) skipped", out)
        if counts is not None:
            numbers["laws"] = dict(zip(("kept", "broken", "skipped"), map(int, counts.groups()), strict=True))
    return {**entry, "numbers": numbers}


def _type(words: list[str]) -> tuple[int, str, str]:
    """The exit code of a command, and what it wrote to either stream."""
    code = 0
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        try:
            if words[0] == TRAIN or words[:2] == [ATTNLAB, "train"]:
                sys.argv = [TRAIN, *words[1 if words[0] == TRAIN else 2 :]]
                runpy.run_path(str(ROOT / TRAIN), run_name="__main__")
            else:
                main(words[1:])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return code, out.getvalue(), err.getvalue()


def _expanded(home: Path, word: str) -> str:
    key, equals, value = word.partition("=")
    if "*" not in value:
        return word
    (path,) = home.glob(value)
    return f"{key}{equals}{path.relative_to(home)}"


def _files(home: Path) -> dict[Path, int]:
    """Every file but those of caches, with the time of its last change."""
    files = (path for path in home.rglob("*") if path.is_file())
    return {
        path.relative_to(home): path.stat().st_mtime_ns
        for path in files
        if not {".cache", "__pycache__"} & set(path.parts) and path.suffix not in (".lock", ".log")
    }


def _stable(path: str) -> str:
    """A path without what differs between two recordings: hashes of code, and time and process of event files.

    What a run continues counts by its contents, and a checkpoint holds the code that made it: `more` has another hash.
    """
    path = re.sub(r"(runs/more/multi_head-)[0-9a-f]{8}", r"\1HASH", path)
    path = re.sub(r"(-[0-9a-f]{8}|-HASH)\.[0-9a-f]{4}(?=/|-|$)", r"\1.CODE", path)
    return re.sub(r"events\.out\.tfevents\.\d+\.[^/]*", "events.out.tfevents", path)


def _numbers(path: Path) -> Iterator[tuple[str, Any]]:
    """The numbers of a file that follow from what was typed."""
    if path.name == "summary.json":
        summary = json.loads(path.read_text())
        yield from ((key, summary[key]) for key in NUMBERS_OF_A_RUN if summary.get(key) not in (None, {}))
    elif path.suffix == ".csv" and path.name != "metrics.csv":
        for number, row in enumerate(csv.DictReader(path.read_text().splitlines())):
            for key, cell in row.items():
                if _is_number(cell) and not any(time in key for time in TIMES):
                    yield f"{number} {_stable(key)}", float(cell)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except (TypeError, ValueError):
        return False
    return True


def processor() -> str:
    """What computes: another kind may sum in another order."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "flags"))]
    return hashlib.sha256("".join(names[:2]).encode()).hexdigest()[:8] if names else platform.processor()


if __name__ == "__main__":
    entries: dict[str, Any] = {}
    for each, entry in type_all(Path(sys.argv[1]).resolve()):
        entries[each] = entry
        RECORDED.write_text(json.dumps({"processor": processor(), "commands": entries}, indent=1) + "\n")
        print(each, entry["exit"], flush=True)
