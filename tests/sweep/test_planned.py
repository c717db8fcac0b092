"""What a plan costs itself: runs that do the same work are tried once, and all trials together have a bound."""

from collections.abc import Iterator
from typing import Any

from attnlab.sweep.jobs import Job
from attnlab.sweep.planned import PROBES_SECONDS, Run, estimate
from attnlab.sweep.pool import Event, Pool
from attnlab.training.identity import Identity


class OnePool(Pool):
    """Answers each question at once, and keeps what was asked."""

    def __init__(self) -> None:
        super().__init__(1)
        self.asked: list[dict[str, Any]] = []
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


def run(parameters: int, rate: float) -> Run:
    config = {"batch_size": 4, "model": {"context": 32}, "trainer": {"threads": 1, "precision": "auto"}, "rate": rate}
    identity = Identity("multi_head", 0, {"parameters": parameters, "rate": rate}, "0" * 16)
    return Run(
        Job((), config, "multi_head", {}, False),
        identity,
        {"parameters": parameters, "forward_flops": 1, "train_flops": 1, "state_bytes": 1},
    )


def test_alike_runs_are_tried_once() -> None:
    """Rates do not change how long a run takes; sizes do."""
    pool = OnePool()
    runs = [run(size, rate) for size in (1, 2) for rate in (0.1, 0.2, 0.3)]
    estimate(runs, pool)
    assert len(pool.asked) == 2
    assert all(each.estimate is not None for each in runs)
    assert len({each.estimate for each in runs[:3]}) == 1 != len({each.estimate for each in runs})


def test_all_trials_together_have_a_bound() -> None:
    """Five hundred kinds of runs are tried for a moment each."""
    pool = OnePool()
    estimate([run(size, 0.1) for size in range(500)], pool)
    assert sum(each["seconds"] for each in pool.asked) <= PROBES_SECONDS * 1.001
