"""What MLflow's limits ask for, on a client that only notes what it is asked."""

from types import SimpleNamespace
from typing import Any

import pytest

from attnlab.training.recorders.mlflow import MOST_AT_ONCE, MlflowRecorder


class Client:
    """A run with these parameters, and with metrics whose histories hold these steps."""

    def __init__(self, params: dict[str, str], histories: dict[str, list[int]]) -> None:
        self.params, self.histories = params, histories

    def get_run(self, run_id: str) -> Any:
        return SimpleNamespace(data=SimpleNamespace(params=self.params, metrics=dict.fromkeys(self.histories, 0.0)))

    def get_metric_history(self, run_id: str, tag: str) -> list[Any]:
        return [SimpleNamespace(step=step) for step in self.histories[tag]]


class Logger:
    def __init__(self) -> None:
        self.batches: list[dict[str, float]] = []
        self.settings: list[Any] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.batches.append(metrics)

    def log_hyperparams(self, params: Any) -> None:
        self.settings.append(params)


def recorder(params: dict[str, str], **histories: list[int]) -> tuple[MlflowRecorder, Logger]:
    """One that is there already: making it takes MLflow itself."""
    one, logger = object.__new__(MlflowRecorder), Logger()
    one.client, one.run_id, one.logger = Client(params, histories), "1", logger
    return one, logger


def test_requests() -> None:
    """No request holds more than a thousand numbers, and each number stands in one."""
    one, logger = recorder({})
    numbers = {f"map/{i}": float(i) for i in range(2 * MOST_AT_ONCE + 1)}
    one.scalars(numbers, 3)
    assert [len(batch) for batch in logger.batches] == [MOST_AT_ONCE, MOST_AT_ONCE, 1]
    assert {tag: x for batch in logger.batches for tag, x in batch.items()} == numbers


def test_settings_once() -> None:
    """A run that goes on has its settings: MLflow refuses to take them again."""
    for params, times in (({}, 1), ({"seed": "0"}, 0)):
        one, logger = recorder(params)
        one.config({"seed": 0})
        assert len(logger.settings) == times


@pytest.mark.parametrize(("histories", "last"), [({}, -1), ({"a": [5, 9], "b": [12, 1]}, 12)])
def test_last_step(histories: dict[str, list[int]], last: int) -> None:
    """The latest of all metrics, not of the first."""
    assert recorder({}, **histories)[0].last_step() == last
