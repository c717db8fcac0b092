"""A run goes on from its own checkpoints alone: whatever else is asked is refused in one line, and nothing is lost."""

import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.reliability import SMALL
from tests.reliability.strangers import checkpoint, files_below
from tests.training.launch import folder_of, write_text

from attnlab.config.compose import compose_config
from attnlab.config.run_config import RunConfig
from attnlab.errors import AttnlabError
from attnlab.training.checkpoint import CheckpointFolder
from attnlab.training.prepare import prepare
from attnlab.training.run import run

BASE = ("data=file", "tokenizer=byte", "model.n_layers=1", "model.n_heads=2", "trainer.threads=1", *SMALL)
BASE = (*BASE, "trainer.precision=bf16", "trainer.attention_dtype=fp32", "maps.probe=is left")  # "one" has an o
# One word for each setting that changes a result, so that it differs from the run that is to be continued.
CHANGES = (
    *("seed=1", "streams.data=1", "streams.init=1", "streams.noise=1", "streams.eval=1", "batch_size=4"),
    *("model.n_layers=2", "model.n_heads=4", "model.d_model=32", "model.context=8", "model.norm=rms"),
    *(
        "model.mlp=swiglu",
        "model.mlp_ratio=2",
        "model.bias=true",
        "model.tie=false",
        "model.dropout=0",
        "model.init=fan_in",
    ),
    *("position=learned", "position=xpos", "position.inside.base=500", "position.inside.fraction=0.5"),
    *("attention=sliding_window", "attention=gqa", "attention=linear", "attention=sink", "attention/score=qk_norm"),
    *("attention.score.scaled.temperature=2", "attention/normalizer=sigmoid", "attention/gate=elementwise"),
    *("attention.n_kv_heads=1", "attention.head_dim=4", "attention.qkv_bias=true", "attention.out_bias=true"),
    *("attention.conv=2", "attention.dropout=0.3", "optimizer=muon", "optimizer.lr=0.1", "optimizer.betas=[0.5,0.5]"),
    *("optimizer.weight_decay=0", "optimizer.warmup_fraction=0.5", "optimizer.decay=linear"),
    *("optimizer.final_lr_fraction=0.5", "optimizer.grad_clip=null", "trainer.max_steps=3", "trainer.accumulate=2"),
    *("trainer.precision=fp32", "trainer.attention_dtype=bf16", "trainer.threads=2", "trainer.compile=true"),
    *("trainer.val_every=1", "data.path=OTHER", "data.val_fraction=0.3", "tokenizer=char"),
)
ELSEWHERE = ("trainer.accelerator", "trainer.devices", "trainer.strategy")  # need another machine
OTHERS: Mapping[str, Callable[[Path], Any]] = {  # checkpoints that are none of this run's, or of no run of attnlab's
    "a plain state_dict": checkpoint(lambda content: content["state_dict"]),
    "one of Lightning's": checkpoint(lambda content: {k: v for k, v in content.items() if k != "fingerprint"}),
    "one without settings": checkpoint(lambda content: {**content, "fingerprint": {}}),
    "one of a later step": checkpoint(lambda content: {**content, "global_step": 99}),
    "a list": checkpoint(lambda content: [content["state_dict"]]),
    "no checkpoint": checkpoint(lambda content: b"PK\x03\x04"),
}


def config_of(folder: Path, *words: str) -> dict[str, Any]:
    places = [f"data.path={folder / 'text.txt'}", f"paths.runs={folder / 'runs'}", f"paths.cache={folder / 'cache'}"]
    return compose_config([*BASE, *places, *(word.replace("OTHER", str(folder / "other.txt")) for word in words)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a finished run and the texts lie in."""
    folder = tmp_path_factory.mktemp("finished")
    write_text(folder)
    (folder / "other.txt").write_text((folder / "text.txt").read_text()[::-1])
    run(config_of(folder), variant="multi_head")
    return folder


def refusal(config: RunConfig) -> str:
    """What is wrong with how a run is refused; nothing if that is as it should be."""
    try:
        run(config, variant="multi_head")
    except AttnlabError as error:
        own = any(
            words in str(error)
            for words in ("belongs to another run", "is not the checkpoint of", "is not a checkpoint")
        )
        wrong = error.exit_code != 2 or "\n" in str(error) or not (own or "is less than the steps" in str(error))
        return f"{error.exit_code}: {error}" if wrong else ""
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "it is continued"


def in_its_place(folder: Path, config: RunConfig) -> str:
    """Ask for a run in whose folder lie the checkpoints of the one that is finished."""
    target, source = prepare(config, "multi_head").folder.path, folder_of(folder)
    if target == source:
        return "it is the same run"
    shutil.copytree(source, target)
    (target / "summary.json").unlink()
    before = dict(files_below(target))
    trouble = refusal(config)
    after = {name: data for name, data in files_below(target) if name != ".lock"}
    shutil.rmtree(target if target.parent == source.parent else target.parent)  # another seed lies beside it
    return trouble or (
        "" if after == {name: data for name, data in before.items() if name != ".lock"} else "it is changed"
    )


def from_it(folder: Path, config: RunConfig) -> str:
    """Ask for a run that starts from the one that is finished."""
    source = folder_of(folder)
    before = dict(files_below(source))
    steps = config.trainer.max_steps if config.trainer.max_steps < 4 else 6
    trainer = replace(config.trainer, max_steps=steps)
    asked = replace(config, trainer=trainer, resume_from=str(source), experiment_name="more")
    trouble = refusal(asked)
    shutil.rmtree(folder / "runs" / "more", ignore_errors=True)
    return trouble or ("" if dict(files_below(source)) == before else "the source is changed")


def cases(folder: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    for word in CHANGES:
        for how in (in_its_place, from_it):
            yield f"{word}, {how.__name__}", lambda word=word, how=how: how(folder, config_of(folder, word))
    for name, damage in OTHERS.items():
        yield f"{name}, from_it", lambda damage=damage: another(folder, damage)


def another(folder: Path, damage: Callable[[Path], Any]) -> str:
    """Start from a copy of the finished run with other checkpoints in it."""
    source = folder / "runs" / "copied" / "multi_head-1" / "seed_0"
    shutil.copytree(folder_of(folder), source)
    damage(source)
    config = config_of(folder, "trainer.max_steps=6", "experiment_name=more")
    trouble = refusal(replace(config, resume_from=str(source)))
    shutil.rmtree(folder / "runs" / "copied")
    shutil.rmtree(folder / "runs" / "more", ignore_errors=True)
    return trouble


@pytest.mark.parametrize("n", [1, pytest.param(None, marks=pytest.mark.slow)])
def test_wrong_resumes(finished: Path, n: int | None) -> None:
    """Every setting that matters changed, and checkpoints of others: refused in one line, and what is there stays."""
    whole = list(cases(finished))
    chosen = whole if n is None else random.Random(len(whole)).sample(whole, n)
    faults = [f"{name}: {trouble}" for name, ask in chosen if (trouble := ask())]
    print(f"wrong resumes: {len(chosen) - len(faults)} of {len(chosen)} refused")
    assert not faults, "\n".join(faults)


def test_right_resumes(finished: Path) -> None:
    """The controls: more steps from a finished run, and the same run again."""
    more = config_of(finished, "trainer.max_steps=6", "experiment_name=longer")
    assert run(replace(more, resume_from=str(folder_of(finished))), variant="multi_head")["step"] == 6
    (folder_of(finished) / "summary.json").unlink()
    assert run(config_of(finished), variant="multi_head")["step"] == 4


def test_other_code(finished: Path, tmp_path: Path) -> None:
    """A run by other code is neither continued nor started from; code=any does."""
    folder = tmp_path / "here"
    shutil.copytree(finished, folder)
    run_folder = folder_of(folder)
    (run_folder / "summary.json").unlink()
    record = json.loads((run_folder / "code.json").read_text())
    record["modules"]["attnlab.attention.softmax"] = "0" * 16
    (run_folder / "code.json").write_text(json.dumps(record))
    for resume_from in (None, str(run_folder)):
        if resume_from:
            shutil.copy(folder_of(finished) / "summary.json", run_folder)
        config = config_of(folder, "experiment_name=more" if resume_from else "experiment_name=default")
        with pytest.raises(
            AttnlabError, match=r"by other code \(changed: attnlab.attention.softmax\): code=any"
        ) as refused:
            run(replace(config, resume_from=resume_from), variant="multi_head")
        assert refused.value.exit_code == 2


@pytest.mark.slow
def test_every_setting_is_changed(finished: Path) -> None:
    """The list of changes misses no setting that a run is known by."""
    ours = prepare(config_of(finished), "multi_head").identity.fingerprint
    changed = set[str]()
    for word in CHANGES:
        theirs = prepare(config_of(finished, word), "multi_head").identity.fingerprint
        changed |= {key for key in ours if ours[key] != theirs.get(key, "absent")}
    constant = {key for key in ours if key.endswith("_partial_")}
    assert set(ours) - changed - constant == {*ELSEWHERE}


def test_checkpoints_are_listed(finished: Path) -> None:
    """The tests above change what is there to be continued."""
    assert CheckpointFolder(folder_of(finished) / "checkpoints").newest(with_rows=True)[0] is not None
