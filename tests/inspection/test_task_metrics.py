"""What heads do on the rows of a task."""

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from attnlab.inspection.task_metrics import TaskRows, rows_to_measure, sink_rate_of, task_metrics, token_kinds


class TwoHeads:
    """A network whose first head looks at itself, and whose second one at the first token, half as much."""

    def __init__(self, *kinds: str) -> None:
        self.kinds = kinds

    def attention_maps(self, ids: torch.Tensor) -> list[SimpleNamespace]:
        b, t = ids.shape
        first = torch.zeros(t, t)
        first[:, 0] = 0.5
        maps = torch.stack([torch.eye(t), first]).expand(b, 2, t, t)
        return [SimpleNamespace(kind=kind, weights=None if kind == "none" else maps) for kind in self.kinds]

    def parameters(self) -> Iterator[torch.Tensor]:
        return iter([torch.zeros(1)])


def test_measures() -> None:
    """The answer stands at the first token in one row, and in the other nowhere so far; tokens k0, k1, v0, v1."""
    ids = np.array([[2, 0, 1, 0], [0, 1, 3, 1]])
    targets = np.array([[-100, 2, -100, 3], [2, -100, -100, -100]])
    rows = TaskRows(ids, targets, token_kinds(["k0", "k1", "v0", "v1"]))
    numbers = task_metrics(TwoHeads("nonnegative", "none"), rows)
    assert numbers == {
        "attention_answer_mass/L00H00": 0.0,
        "attention_answer_mass/L00H01": 1.0,  # of all that it looks at
        "attention_row_sum/k/L00H00": 1.0,
        "attention_row_sum/k/L00H01": 0.5,
        "attention_row_sum/v/L00H00": 1.0,
        "attention_row_sum/v/L00H01": 0.5,
        "attention_sink_rate": 0.5,  # the first head gives a quarter of its weight to the first token
    }
    assert task_metrics(TwoHeads("none"), rows) == {}


def test_kinds_and_rows() -> None:
    """A name that is a number stays; long rows are fewer."""
    assert token_kinds(["k0", "k17", ".", "0", "a"]) == ["k", "k", ".", "0", "a"]
    assert (rows_to_measure(64), rows_to_measure(512), rows_to_measure(4096)) == (32, 8, 1)
    assert sink_rate_of({"attention_first_token_mass/L00H00": 0.31, "attention_entropy/L00H00": 9}) == {
        "attention_sink_rate": pytest.approx(1.0)
    }
    assert sink_rate_of({}) == {}
