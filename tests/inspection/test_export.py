"""Maps in the shape of other tools: the real packages take them, and show the same numbers."""

import json
import re
from typing import Any

import numpy as np
import pytest

from attnlab.errors import UsageError
from attnlab.inspection.export import ANGLE, for_bertviz, for_circuitsvis
from attnlab.inspection.prompt_maps import ChosenHeads, PromptMaps

TOKENS = ["Your", "</script><b>", "\ud800", "it's"]
RNG = np.random.default_rng(0)


def heads(layer: int, numbers: list[int], kind: str = "probability") -> ChosenHeads:
    weights = np.tril(RNG.uniform(0.1, 1, size=(len(numbers), 4, 4)))
    if kind == "signed":
        weights = np.tril(RNG.normal(size=weights.shape)) * 3
    else:
        weights /= weights.sum(-1, keepdims=True)
    return ChosenHeads(layer, kind, numbers, weights.astype(np.float32), None)


def maps(*layers: ChosenHeads) -> PromptMaps:
    return PromptMaps("a/b", 1, "".join(TOKENS), TOKENS, list(layers))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves a file of its own open
@pytest.mark.parametrize("view", ["head_view", "model_view"])
def test_bertviz_shows_the_weights_of_every_head(view: str) -> None:
    bertviz: Any = pytest.importorskip("bertviz", reason="bertviz is not installed: pip install -e '.[views]'")
    given = maps(heads(0, [0, 1, 2]), heads(3, [0, 1, 2]))
    text = getattr(bertviz, view)(**for_bertviz(given), html_action="return").data
    found = json.JSONDecoder().raw_decode(text, text.index('{"attention": '))[0]
    shown = found["attention"][0]
    np.testing.assert_allclose(shown["attn"], np.stack([layer.weights for layer in given.layers]), rtol=1e-6)
    assert shown["left_text"] == shown["right_text"] == ["Your", f"{ANGLE}/script>{ANGLE}b>", "?", "it's"]
    assert "</script><b>" not in text


def test_circuitsvis() -> None:
    """Circuitsvis shows the weights of a layer with their signs."""
    attention: Any = pytest.importorskip(
        "circuitsvis.attention", reason="circuitsvis is not installed: pip install -e '.[views]'"
    )
    given = maps(heads(0, [0, 1]), heads(3, [1, 5], "signed"))
    text = attention.attention_heads(**for_circuitsvis(given, layer=3)).cdn_src
    found = json.loads(re.search(r"AttentionHeads,\s*(\{.*\})\s*\)", text, re.DOTALL)[1])  # type: ignore[index]
    weights = given.layers[1].weights
    np.testing.assert_allclose(found["attention"], weights, rtol=1e-6)
    assert found["attentionHeadNames"] == ["L03H01", "L03H05"]
    assert found["tokens"] == ["Your", f"{ANGLE}/script>{ANGLE}b>", "?", "it's"]
    assert found["maskUpperTri"] is True
    assert found["maxValue"] == -found["minValue"] == pytest.approx(np.abs(weights).max(), rel=1e-6)


def test_documented_shapes() -> None:
    """What is handed over has the documented shape."""
    given = maps(heads(1, [0, 1]), heads(2, [0, 1]))
    there = for_bertviz(given)
    assert [tuple(layer.shape) for layer in there["attention"]] == [(1, 2, 4, 4)] * 2
    np.testing.assert_array_equal(there["attention"][1][0].numpy(), given.layers[1].weights)
    one = for_circuitsvis(given, layer=2)
    np.testing.assert_array_equal(one["attention"], given.layers[1].weights)
    assert (one["max_value"], one["min_value"]) == (1.0, -1.0)


def test_bertviz_refusals() -> None:
    """What BertViz would draw wrongly is refused."""
    with pytest.raises(UsageError, match=r"layer 3 has weights below 0, which BertViz cannot draw"):
        for_bertviz(maps(heads(0, [0]), heads(3, [0], "signed")))
    with pytest.raises(UsageError, match=r"layers have 1 or 2 heads, but BertViz needs the same number"):
        for_bertviz(maps(heads(0, [0]), heads(1, [0, 1])))


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match=r"layer \(2\) is not among the layers of these maps \(0, 3\)"):
        for_circuitsvis(maps(heads(0, [0]), heads(3, [0])), layer=2)
