"""What a plan costs itself: runs that do the same work are tried once, and all trials together have a bound.

And which of its settings are the baseline.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from attnlab.config.compose import compose_config, compose_job
from attnlab.config.run_config import RunConfig
from attnlab.errors import Locked
from attnlab.store.experiment_folder import PlannedExperiment
from attnlab.sweep import plan as plan_module
from attnlab.sweep.answers import answer_of
from attnlab.sweep.executor import show
from attnlab.sweep.jobs import Job
from attnlab.sweep.plan import PROBES_SECONDS, PlannedRun, ask_all, compare, estimate
from attnlab.sweep.pool import Event, Pool
from attnlab.sweep.worker_tasks import task_of
from attnlab.training import prepare
from attnlab.training.identity import SEEDS, Identity

SMALL = {"model": {"n_layers": 1, "d_model": 8, "context": 32}}


class OnePool(Pool):
    """Answers each question at once, and keeps what was asked."""

    def __init__(self) -> None:
        super().__init__(1)
        self.asked: list[Any] = []
        self.waiting: list[int] = []

    @property
    def free(self) -> bool:
        return not self.waiting

    def give(self, task: int, kind: str, content: Any) -> None:
        self.asked.append(content)
        self.waiting.append(task)

    def events(self, seconds: float) -> Iterator[Event]:
        while self.waiting:
            task = self.waiting.pop()
            yield Event(task, "done", {"seconds": 10.0 * (task + 1)})


def run(parameters: int, rate: float) -> PlannedRun:
    config = RunConfig.of({**SMALL, "optimizer": {"lr": rate}})
    identity = Identity("multi_head", 0, {"parameters": parameters, "rate": rate}, "0" * 16)
    return PlannedRun(
        Job((), config, "multi_head", {}, False),
        identity,
        {"parameters": parameters, "forward_flops": 1, "train_flops": 1, "state_bytes": 1},
    )


def test_alike_runs_are_tried_once() -> None:
    """Learning rates do not change how long a run takes; sizes do."""
    pool = OnePool()
    runs = [run(size, rate) for size in (1, 2) for rate in (0.1, 0.2, 0.3)]
    estimate(runs, pool)
    assert len(pool.asked) == 2
    assert all(each.estimate is not None for each in runs)
    assert len({each.estimate for each in runs[:3]}) == 1 != len({each.estimate for each in runs})


def test_all_trials_together_have_a_bound() -> None:
    """Fifty kinds of runs are tried for a moment each."""
    pool = OnePool()
    estimate([run(size, 0.1) for size in range(50)], pool)
    assert sum(each["seconds"] for each in pool.asked) <= PROBES_SECONDS * 1.001


def test_untried_by_flops() -> None:
    """Where there is no time to try a kind, it is taken to train at the FLOP/s of its variant; that is said of it."""
    pool, runs = OnePool(), [run(size, 0.1) for size in range(3)]
    for one in runs:
        one.facts = {**one.facts, "train_flops": 100 * (one.facts["parameters"] + 1)}
    with mock.patch.object(plan_module, "PROBES_SECONDS", 0.0):
        estimate(runs, pool)
    assert [one.tried for one in runs] == [True, False, False]
    assert runs[0].estimate is not None
    assert [one.estimate for one in runs] == [runs[0].estimate * times for times in (1, 2, 3)]


def test_planned_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found out for many together is what each gives alone, whatever they share; what is refused is, too."""
    monkeypatch.chdir(tmp_path)
    common = ["model=tiny", "tokenizer=byte", f"data.path={Path(__file__)}", "data=file"]
    varied = [["attention=gqa", f"model.n_layers={n}"] for n in (1, 2)]
    varied += [["attention=linear", f"optimizer.lr={rate}"] for rate in (0.1, 0.2)]
    varied += [["attention=value_residual", "tokenizer=char"], ["attention=gqa", "model.context=100000"]]
    contents = [
        {"config": config, "variant": variant} for config, variant in (compose_job([*common, *own]) for own in varied)
    ]
    together = task_of("plan")(contents, lambda *_: None)
    assert together == [task_of("plan")([content], lambda *_: None)[0] for content in contents]
    assert [kind for kind, _ in together] == ["done"] * 5 + ["failed"]
    assert together[0][1]["forward_flops"] < together[1][1]["forward_flops"]


@pytest.mark.parametrize("begins", [False, True])
def test_plan_decides_nothing(begins: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `auto` comes to is written for runs that follow, and not for a plan, which tries no compiler either."""
    monkeypatch.chdir(tmp_path)
    tried: list[bool] = []
    monkeypatch.setattr(prepare, "try_compiler", lambda *_: tried.append(True) or {"value": True})
    words = ["model=tiny", "tokenizer=byte", f"data.path={Path(__file__)}", "data=file", "trainer.compile=auto"]
    config, variant = compose_job(words)
    ((kind, _),) = task_of("plan")([{"config": config, "variant": variant, "begins": begins}], lambda *_: None)
    assert kind == "done" and bool(tried) is begins
    assert (tmp_path / "runs").exists() is begins
    assert PlannedExperiment(tmp_path / "e").resolve_once("seed", lambda: {"value": 3}) == {"value": 3}
    assert not (tmp_path / "e").exists()


def test_answers() -> None:
    """What a task gives, or the word for what went wrong with the reason."""

    def locked() -> None:
        raise Locked("by another")

    assert answer_of(lambda: 3) == ("done", 3)
    assert answer_of(locked) == ("locked", "by another")
    assert answer_of(lambda: 1 / 0) == ("failed", "ZeroDivisionError: division by zero")


def test_died_of_many() -> None:
    """A worker that dies of several questions is asked each alone, and the one to blame is named."""

    class Dying(OnePool):
        def events(self, seconds: float) -> Iterator[Event]:
            while self.waiting:
                task, contents = self.waiting.pop(), self.asked[-1]
                if any(content["config"].seed == 3 for content in contents):
                    yield Event(task, "died", -9)
                else:
                    yield Event(task, "done", [("done", content["config"].seed) for content in contents])

    jobs = [Job((), RunConfig.of({**SMALL, "seed": seed}), "multi_head", {}, False) for seed in range(5)]
    answers = sorted(ask_all(Dying(), "plan", jobs))
    assert answers == [(n, "died", -9) if n == 3 else (n, "done", n) for n in range(5)]


class Answering(OnePool):
    """Answers as a worker does."""

    def events(self, seconds: float) -> Iterator[Event]:
        while self.waiting:
            task = self.waiting.pop()
            yield Event(task, "done", task_of("same")(self.asked[-1], lambda *_: None))


def test_same_as_baseline(capsys: pytest.CaptureFixture[str]) -> None:
    """Each attention is held once against that of the sweep's own baseline, at the same sizes, whatever its rate."""
    pool, runs = Answering(), []
    for variant, heads in (("multi_head", 2), ("gqa", 2), ("smollm3", 2), ("softcap", 2), ("gqa", 4), ("mqa", 4)):
        for rate in (0.1, 0.2):
            words = ("model=tiny", f"attention={variant}", f"model.n_heads={heads}", f"optimizer.lr={rate}")
            identity = Identity(variant, 0, {**dict.fromkeys(SEEDS, 0), "words": words}, "0" * 16)
            runs.append(
                PlannedRun(Job(words, compose_config(words), variant, {}, False), identity, {}, " ".join(words[1:3]))
            )
    compare(runs, "gqa", pool)
    assert [len(contents) for contents in pool.asked] == [3, 1], "three at two heads, one at four"
    assert {run.label for run in runs if run.same} == {
        "attention=multi_head model.n_heads=2",
        "attention=smollm3 model.n_heads=2",
    }
    show(runs, [], 1, costs=False)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "the same: " in line]
    assert "smollm3 model.n_heads=2 each computes what gqa does at these sizes" in line
