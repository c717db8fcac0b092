"""The worked example shows the chapter's numbers: each entry of chapter3.json that `attnlab explain` shows."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attnlab.explain.explanations import all_examples, variant
from attnlab.explain.steps import Explanation

GOLDEN = json.loads((Path(__file__).parent / "chapter3.json").read_text(encoding="utf-8"))
ENTRIES: dict[str, dict[str, Any]] = GOLDEN["entries"]
PRINTED = 6e-5  # four decimals were printed
JOURNEY = 1

# Entry -> what is typed after `attnlab explain`, the step that shows the numbers, and the token if it is one row.
SIMPLE: dict[str, Any] = {"name": "simple"}
SELF: dict[str, Any] = {"name": "self"}
CAUSAL: dict[str, Any] = {"name": "causal"}
SHOWN: dict[str, tuple[dict[str, Any], str, int | None]] = {
    "simple.scores_query2": (SIMPLE, "dot", JOURNEY),
    "simple.weights_query2_softmax": (SIMPLE, "weights", JOURNEY),
    "simple.context_query2": (SIMPLE, "context", JOURNEY),
    "simple.scores_all": (SIMPLE, "dot", None),
    "simple.weights_all": (SIMPLE, "weights", None),
    "simple.context_all": (SIMPLE, "output", None),
    "self.query_2": (SELF, "q", JOURNEY),
    "self.key_2": (SELF, "k", JOURNEY),
    "self.value_2": (SELF, "v", JOURNEY),
    "self.scores_query2": (SELF, "dot", JOURNEY),
    "self.weights_query2": (SELF, "weights", JOURNEY),
    "self.context_query2": (SELF, "context", JOURNEY),
    "self_v1.output": (SELF, "output", None),
    "self_v2.output": (SELF | {"seed": 789, "init": "linear"}, "output", None),
    "exercise_3_1.output": (SELF | {"init": "linear"}, "output", None),
    "causal.weights_unmasked": (SELF | {"seed": 789, "init": "linear"}, "weights", None),
    "causal.weights_times_tril": (CAUSAL, "first.tril", None),
    "causal.weights_renormalised": (CAUSAL, "first.rows", None),
    "causal.scores_masked": (CAUSAL, "masked", None),
    "causal.weights": (CAUSAL, "weights", None),
    "dropout.causal_weights_p0.5": (CAUSAL, "dropout", None),
    "causal_attention.output": (CAUSAL | {"seed": 123}, "output", None),
    "multihead_wrapper.output": ({"name": "stacked_heads"}, "output", None),
    "multihead.output": ({"name": "multi_head"}, "output", None),
}


@cache
def explanation(settings: str) -> Explanation:
    return variant(**json.loads(settings))


def numbers(settings: dict[str, Any], key: str, token: int | None) -> np.ndarray:
    """A step's numbers as the chapter prints them: one head, what may not be read -inf, scores before the scale."""
    step = explanation(json.dumps(settings)).step(key)
    assert step is not None
    values = step.values[0]
    if key == "masked":
        assert step.hidden is not None
        values = np.where(step.hidden[0], -np.inf, values * np.sqrt(2))  # keys are 2 long
    return values if token is None else values[token]


def draws_the_printed_mask() -> bool:
    """Whether this machine's dropout draws what was printed: Intel's library and torch's own generator differ."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        mask = torch.nn.functional.dropout(torch.ones(6, 6), 0.5).tolist()
    return bool(mask == ENTRIES["dropout.ones_p0.5"]["expected"])


@pytest.mark.parametrize("name", SHOWN)
def test_worked_example(name: str) -> None:
    """The worked example shows what the chapter prints."""
    entry, (settings, key, token) = ENTRIES[name], SHOWN[name]
    if entry.get("platform_dependent") and not draws_the_printed_mask():
        pytest.skip("on this machine torch draws another dropout mask than the one that was printed")
    found, expected = numbers(settings, key, token), np.array(entry["expected"], dtype=float)
    if expected.ndim == 3:  # the chapter's sentence twice
        np.testing.assert_array_equal(expected[0], expected[1])
        expected = expected[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=PRINTED)


def test_whole_chapter() -> None:
    """Without a variant the whole chapter is shown in its order."""
    found = all_examples()
    assert [e.name for e in found] == ["simple", "self", "causal", "stacked_heads", "multi_head"]
    assert [e.tokens for e in found] == [GOLDEN["tokens"]] * 5
    assert {e.tokens[e.focus] for e in found} == {"journey"}
    for e in found:
        inputs = e.step("inputs")
        assert inputs is not None
        np.testing.assert_allclose(inputs.values[0], GOLDEN["inputs"], rtol=0, atol=1e-7)
