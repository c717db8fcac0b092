"""The flow: its numbers are the layer's and the book's, its rules give them, its lines are those that ran."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.inspection.tab_server import browser

import attnlab
from attnlab.attention.base import Attention
from attnlab.attention.self_attention import SelfAttention
from attnlab.cli import main
from attnlab.config.messages import compose_for_chapter
from attnlab.explain.chapter import VECTORS, inputs, words_of
from attnlab.explain.explanations import all_examples, built, variant
from attnlab.explain.flow import flow_rules, memory
from attnlab.explain.flow.chapter_figures import FIGURES, chapter_figure
from attnlab.explain.flow.encode import _short, encoded
from attnlab.explain.flow.expressions import evaluated, expression
from attnlab.explain.flow.graph import flow_of
from attnlab.explain.flow.memory_formulas import FORMULAS
from attnlab.explain.flow.node import ALPHA, Flow
from attnlab.explain.flow.operations import Operations, recorded
from attnlab.explain.flow.section import section
from attnlab.explain.html import page
from attnlab.explain.steps import Explanation

SOURCES = Path(attnlab.__file__).parent
GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "chapter3.json").read_text("utf-8"))[
    "entries"
]
PRINTED = 6e-5  # four decimals were printed
JOURNEY = 1
# Figure -> the book's numbers in it: an entry, the node that shows them, and whether they are one row.
IN_FIGURES = {
    "3.7": [("simple.context_query2", "context", True)],
    "3.8": [("simple.scores_query2", "dot", True)],
    "3.9": [("simple.weights_query2_softmax", "weights", True)],
    "3.10": [("simple.context_query2", "context", True)],
    "3.11": [("simple.weights_all", "weights", False)],
    "3.12": [("simple.scores_all", "dot", False), ("simple.context_all", "context", False)],
    "3.14": [("self_v1.W_query", "q.W", False), ("self.query_2", "q", True), ("self.key_2", "k", True),
             ("self.value_2", "v", True)],
    "3.15": [("self.scores_query2", "dot", True)],
    "3.16": [("self.weights_query2", "weights", True)],
    "3.17": [("self.context_query2", "context", True)],
    "3.18": [("self_v1.output", "context", False)],
    "3.19": [("causal.weights", "weights", False)],
    "3.20": [("causal.weights_times_tril", "first.tril", False), ("causal.weights_renormalised", "first.rows", False)],
    "3.21": [("causal.scores_masked", "dot", False)],
    "3.22": [("causal.weights", "weights", False)],
    "3.24": [("multihead_wrapper.output", "output", False)],
    "3.25": [("multihead_wrapper.output", "output", False)],
    "3.26": [("multihead.output", "output", False)],
}  # fmt: skip


@pytest.fixture(scope="module")
def chapter() -> dict[str, Explanation]:
    return {e.name: e for e in all_examples()}


def shown(e: Explanation, which: int = 0) -> dict[str, Any]:
    """What the page of a worked example is given to draw of one of its flows."""
    text = section([e])
    data: dict[str, Any] = json.loads(re.findall(r'id="flow-data">(.*?)</script>', text)[0])["flows"][which]
    return {node["key"]: np.array(node["values"], dtype=float) for node in data["nodes"]}


@pytest.mark.parametrize("number", IN_FIGURES)
def test_figures_hold_the_book(number: str, chapter: dict[str, Explanation]) -> None:
    """Each figure of the chapter holds the numbers that the book prints for it."""
    figure = chapter_figure(number)
    e = chapter[figure.name]
    flow = e.first_way if figure.first_way else e.flow
    assert flow is not None and (figure.step is None or figure.step in [stage.key for stage in flow.stages])
    nodes = shown(e, int(figure.first_way))
    for entry, key, row in IN_FIGURES[number]:
        expected = np.array(GOLDEN[entry]["expected"], dtype=float)
        expected = expected[0] if expected.ndim == 3 else expected
        found = nodes[key][0, JOURNEY] if row else nodes[key][0]
        if "-inf" in str(GOLDEN[entry]["expected"]):  # the chapter masks, then scales: numbers before the mask
            np.testing.assert_array_equal(np.array(flow.node("masked").hidden[0]), np.isneginf(expected))
            found = np.where(np.isneginf(expected), expected, found)
        np.testing.assert_allclose(found, expected, rtol=0, atol=PRINTED)


def test_every_figure_opens(chapter: dict[str, Explanation]) -> None:
    """Every figure names a step that its variant has."""
    for figure in FIGURES.values():
        flow = chapter[figure.name].first_way if figure.first_way else chapter[figure.name].flow
        assert flow is not None and (figure.step is None or figure.step in [stage.key for stage in flow.stages])


def test_dropout_of_the_chapter(chapter: dict[str, Explanation]) -> None:
    """Dropout is drawn where the chapter draws it, and with its probability; its several heads have none."""
    drawn = {name for name, e in chapter.items() if e.step("dropout") is not None}
    assert drawn == {"causal"} and chapter["causal"].flow.node("dropout").factor == (0.5,)


def test_both_ways_to_mask(chapter: dict[str, Explanation]) -> None:
    """The first way is drawn by its own rules, and ends in the context vectors of the second."""
    e = chapter["causal"]
    first = e.first_way
    assert first is not None
    rules = {key: first.node(key).rule for key in ("first.all", "first.tril", "first.total", "first.rows", "context")}
    assert [*rules.values()] == ["ratio", "tril", "total", "ratio", "mix"]
    assert np.array_equal(first.node("context").values, e.flow.node("context").values)
    assert {node.key for node in first.nodes}.isdisjoint({"masked", "weights", "dropout"})


@pytest.mark.parametrize("name", ["multi_head", "stacked_heads", "gqa", "mla", "gated", "differential", "sink"])
def test_scores_have_rules(name: str) -> None:
    """Scores, weights and context vectors of softmax attention are all made by rules, with the lines that ran."""
    flow = variant(name).flow
    pairs = [
        node
        for node in flow.nodes
        if node.kind == "pair" and node.key.rpartition(".")[2] in ("scaled", "masked", "weights")
    ]
    assert pairs
    assert all(node.rule in ("scale", "mask", "ratio") for node in pairs)
    assert flow.node("context").rule == "mix"
    lines_hold(flow)


@pytest.mark.parametrize("name", ["hca", "csa", "deepseek_v4"])
def test_summaries_have_a_rule(name: str) -> None:
    """What is read of tokens and of summaries of blocks is the sum of both, by weights that a sink leaves below 1."""
    flow = variant(name).flow
    context, tokens, blocks = (flow.node(key) for key in ("context", "weights", "weights.summaries"))
    assert context.rule == "sum"
    read = tokens.values @ flow.node("v").values + blocks.values @ flow.node("summaries").values
    np.testing.assert_allclose(read, context.values, atol=1e-5)
    assert (tokens.values.sum(-1) + blocks.values.sum(-1) < 1).all() and blocks.values.any()
    assert not np.triu(blocks.values, 1).any()
    lines_hold(flow)


MEMORIES = [
    *("linear", "retention", "gla", "mamba2", "delta_net", "gated_delta", "kda", "comba", "gdn2", "precond_kda"),
    *("delta_product", "momentum_delta", "rwkv7", "mesa", "mlstm", "mamba3", "gsa", "raven", "abc", "log_linear"),
    *("ttt", "performer", "uniform"),
]


@pytest.mark.parametrize("name", MEMORIES)
def test_memories_have_rules(name: str) -> None:
    """A memory is written, decays, is corrected and read by a formula of its own, which gives its numbers."""
    flow = variant(name).flow
    memory = [node for node in flow.nodes if node.stage in ("write", "state", "context")]
    assert flow.node("context").rule in ("sum", "mix")
    assert all(
        node.rule in ("sum", "join", "turn") for node in memory if node.kind == "state" and node.key != "state.weight"
    )
    formulas = [node for node in memory if node.rule == "sum"]
    assert len(formulas) >= 3
    for node in formulas:
        assert node.expression is not None
        assert all(flow.node(key).values.size for key in node.expression.keys)
    lines_hold(flow)


def test_expressions_run_from_token_to_token() -> None:
    """What is written as a formula is the sum that a loop over the tokens gives, from what stands before the first."""
    rng = np.random.default_rng(0)
    given = {"a": rng.uniform(size=(2, 4, 1)), "k": rng.normal(size=(2, 4, 3)), "v": rng.normal(size=(2, 4, 5))}
    start = rng.normal(size=(2, 3, 5))
    lines = [
        ("s", expression("thrc", "a:ht0 * <s:thrc - k:htr * v:htc / 4", "", None)),
        ("z", expression("htc", "s:thrc * k:htr + v:ht$", "exp", None)),
    ]
    found = evaluated(lines, given, {"s": start}, {})
    state = start
    for i in range(4):
        state = given["a"][:, i, :, None] * state - given["k"][:, i, :, None] * given["v"][:, i, None] / 4
        np.testing.assert_allclose(found["s"][i], state)
        read = np.exp(np.einsum("hrc,hr->hc", state, given["k"][:, i]) + given["v"][:, i, -1:])
        np.testing.assert_allclose(found["z"][:, i], read)
    with pytest.raises(ValueError, match="s is something else at token 2"):
        evaluated(lines, given, {"s": start}, {"s": found["s"] * np.array([1, 1, 1.1, 1])[:, None, None, None]})
    assert not flow_rules.same(found["s"], found["s"] * 1.01)


def test_formulas_are_complete() -> None:
    """Each formula ends in what is read, or in a map, and no node of it is made twice."""
    for lines in FORMULAS:
        keys = [line.key for line in lines]
        assert len(set(keys)) == len(keys)
        assert keys[-1] in ("context", "map")
        assert {line.stage for line in lines} <= set(memory.STAGES)


@pytest.mark.parametrize("key", ["state.matrix", "context"])
def test_a_wrong_memory_has_no_formula(key: str) -> None:
    """Where a state or what is read of it is not what the formula gives, none is shown."""
    e = variant("gated_delta")
    layer = build_layer("gated_delta")
    assert {node.rule for node in flow_of(layer, e.steps, Operations([])).nodes if node.kind == "state"} == {"sum"}
    broken = [replace(step, values=step.values * 1.01) if step.key == key else step for step in e.steps]
    assert {node.rule for node in flow_of(layer, broken, Operations([])).nodes if node.kind == "state"} == {"given"}


def build_layer(name: str) -> Attention:
    """The layer that a worked example shows."""
    return built([compose_for_chapter(name, None, (), ())])[0].layers[-1]


def lines_hold(flow: Flow) -> None:
    """Every source is a line that is in its file, and nearly every number has one."""
    sources = [node.source for node in flow.nodes if node.source is not None]
    assert len(sources) >= 0.6 * len(flow.nodes)
    for source in sources:
        assert (SOURCES / source.file).read_text("utf-8").splitlines()[source.line - 1].strip() == source.text
        assert not source.file.startswith("explain/")


def test_wrong_numbers_get_no_rule(chapter: dict[str, Explanation]) -> None:
    """Where numbers are not what the rule gives, the figure does not say that they are."""
    e = chapter["self"]
    layer = SelfAttention(3)  # type: ignore[call-arg]  # it settles how many heads it has
    assert flow_of(layer, e.steps, Operations([])).node("context").rule == "mix"
    broken = [replace(step, values=step.values + 0.01) if step.key == "v" else step for step in e.steps]
    assert flow_of(layer, broken, Operations([])).node("context").rule != "mix"


def test_operations_are_found_by_value() -> None:
    """A number is traced to the operation that made it, wherever it was moved afterwards."""
    x, y = torch.randn(1, 2, 3), torch.randn(1, 2, 3)
    with recorded() as recording:
        z = (x * y).transpose(1, 2).flatten()
    found = Operations(recording.ran).in_place(z.numpy())
    assert found is not None
    assert found.name == "\N{MULTIPLICATION SIGN}"
    np.testing.assert_array_equal(found.operands[0] * found.operands[1], z.numpy())
    assert Operations(recording.ran).origin(z.numpy() + 1) is None


def test_own_sentence() -> None:
    """A sentence of one's own has the chapter's vectors for its words, and others that follow from the letters."""
    assert words_of(" I  am here ") == ["I", "am", "here"]
    x = inputs(3, ["here", "journey", "here"])
    np.testing.assert_allclose(x[0, 1].numpy(), VECTORS[1])
    assert torch.equal(x[0, 0], x[0, 2])
    assert not torch.equal(inputs(3, ["there"])[0, 0], x[0, 0])
    e = variant("gqa", prompt="I am here")
    assert e.tokens == ["I", "am", "here"]
    assert e.focus == 2
    assert e.flow.node("context").rule == "mix"


def test_long_texts_are_cut(chapter: dict[str, Explanation]) -> None:
    """Of a long text the words that are read most are drawn, among them the one that reads."""
    e = variant("multi_head", prompt=" ".join(f"word{i}" for i in range(40)), token="30")
    data = encoded(e.flow, name="a", heading="a", tokens=e.tokens, focus=e.focus)
    assert len(data["tokens"]) == 12
    assert 30 in data["places"]
    assert data["asks"] == [data["places"].index(30)]
    row = e.flow.node("weights").values[:, 29].max(0)
    left_out = np.delete(row, np.array(data["places"]) - 1)
    assert left_out.max() <= row[np.array(data["places"]) - 1].max()


@pytest.mark.parametrize("value", [0.28645003, -0.28645003, 0.03125, 99.99995, 123.45675, 5e-5, 0.1234565])
def test_numbers_round_once(value: float) -> None:
    """What the page is given rounds to the decimals that the array's number rounds to."""
    number = np.float32(value)
    for decimals in range(1, 5):
        assert rounds_to(number, f"{_short(float(number)):.{decimals}f}")
    assert not rounds_to(np.float32(0.28645003), "0.2864")
    assert not rounds_to(np.float32(0.03125), "0.0314")
    assert rounds_to(np.float32(0.03125), "0.0312") and rounds_to(np.float32(0.03125), "0.0313")


# In a browser

DRAWN = ("mlstm", "mamba3", "gsa", "log_linear", "ttt", "delta_product")  # memories with rules of their own


def rounds_to(value: np.floating[Any], text: str) -> bool:
    """Whether a text is the number to the decimals that it has; of a tie either neighbour is."""
    if text.endswith("\u221e"):
        return float(value) > 1e37 if text == "\u221e" else float(value) < -1e37
    decimal = Decimal(text.replace("\u2212", "-"))
    exponent = decimal.as_tuple().exponent
    assert isinstance(exponent, int)
    return abs(Fraction(decimal) - Fraction(float(value))) <= Fraction(10) ** exponent / 2


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, chapter: dict[str, Explanation]) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    for name in ("multi_head", "gated_delta", "mla", *DRAWN):
        (folder / f"{name}.html").write_text(page(name, [variant(name)]), "utf-8")
    (folder / "chapter.html").write_text(page("chapter", list(chapter.values())), "utf-8")
    return folder


def opened(chromium: Any, file: Path, width: int, scheme: str = "light") -> tuple[Any, list[str]]:
    """A page, and what went wrong in it."""
    wrong: list[str] = []
    tab = chromium.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    ).new_page()
    tab.on("console", lambda message: wrong.append(message.text))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("request", lambda request: None if request.url.startswith(("file:", "blob:")) else wrong.append(request.url))
    tab.goto(file.as_uri())
    return tab, wrong


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.mark.slow
@pytest.mark.parametrize("width", [1440, 1024, 390])
def test_page_in_chromium(chromium: Any, pages: Path, width: int) -> None:
    """No error, no request, no scrolling aside; nothing serious for axe; numbers on the page are the arrays'."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    for name in ("multi_head", "gated_delta", "chapter"):
        for scheme in ("light", "dark"):
            tab, wrong = opened(chromium, pages / f"{name}.html", width, scheme)
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            serious = [v for v in axe.run(tab).response["violations"] if v["impact"] in ("serious", "critical")]
            assert not serious, [(v["id"], v["nodes"][0]["html"][:200]) for v in serious]
            assert not wrong
            tab.context.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["multi_head", "gated_delta", "mla", *DRAWN])
def test_numbers_on_the_page(chromium: Any, pages: Path, name: str) -> None:
    """Each number that is drawn is the one of the array, for each head and word; its sum gives it."""
    e = variant(name)
    tab, _ = opened(chromium, pages / f"{name}.html", 1440)
    number = 0
    for word in range(6):
        tab.locator(".tokens button").nth(word).click()
        for key, text in tab.evaluate(
            "[...document.querySelectorAll('.flow-words td')].map(d => [d.dataset.cell, d.textContent])"
        ):
            node, _, at = key.rpartition(":")
            found, here = e.flow.node(node), tuple(int(i) for i in at.split(","))
            if not (found.hidden is not None and found.hidden[here]):
                assert rounds_to(found.values[here], text), key
        for key, text in tab.evaluate(
            "[...document.querySelectorAll('.flow .number')].map(g => [g.dataset.id, g.textContent])"
        ):
            node, _, at = key.rpartition(":")
            here = tuple(int(i) for i in at.split(","))
            found = e.flow.node(node)
            hidden = found.hidden is not None and found.kind == "pair" and found.hidden[here]
            if not hidden:
                assert rounds_to(found.values[here], text), key
                number += 1
    assert number > 300
    sums = tab.evaluate(
        """[...document.querySelectorAll('.flow .number')].map(g => {
          g.dispatchEvent(new PointerEvent('pointerover', {bubbles: true}));
          const panel = document.querySelector('.flow-panel');
          return [g.dataset.id, panel.querySelector('.flow-sum').textContent, panel.textContent];
        })"""
    )
    for key, text, whole in sums:
        formula = [part.strip() for part in text.split(" = ")]
        if len(formula) == 3 and re.fullmatch(r"[-\u2212+·÷\u00d7(). \d]+", formula[1]):
            python = formula[1].replace("\u2212", "-").replace("·", "*").replace("÷", "/").replace("\u00d7", "*")
            assert abs(eval(python) - float(formula[2].replace("\u2212", "-"))) < 2e-3, (key, text)
        if e.flow.node(key.rpartition(":")[0]).source is not None:
            assert re.search(r"\.py:\d+ ", whole), key


@pytest.mark.slow
def test_steps_quiz_keys_address(chromium: Any, pages: Path) -> None:
    """Steps hide what comes later, the quiz hides numbers until asked, keys move, a link opens the same state."""
    tab, wrong = opened(chromium, pages / "chapter.html", 1440)
    tab.select_option(".flow select", label="3.9 Scores become weights")
    assert "step=weights" in tab.url
    assert "word=2" in tab.url
    tab.select_option(".flow select", label="3.11 Weights of every word")
    table = tab.locator(".flow-words td")
    assert [float(x) for x in table.all_text_contents()] == [
        x for row in GOLDEN["simple.weights_all"]["expected"] for x in row
    ]
    tab.reload()
    chosen = "document.querySelector('.flow select').selectedOptions[0].textContent"
    assert tab.evaluate(chosen) == "3.11 Weights of every word"
    tab.select_option(".flow select", label="3.9 Scores become weights")
    assert tab.evaluate(chosen) == "3.9 Scores become weights"
    later = tab.locator(".flow g.later")
    assert later.count() > 0
    tab.get_by_role("button", name="Quiz").click()
    first = tab.locator('.flow .number[data-id="dot:0,1,0"]')
    assert "?" in first.text_content()
    assert set(table.all_text_contents()) == {"?"}
    assert "0.9544" not in (first.get_attribute("aria-label") or "")
    first.focus()
    tab.keyboard.press("Enter")
    assert "0.9544" in first.text_content()
    assert "0.43 · 0.55" in tab.locator(".flow-sum").text_content().replace("0.55 · 0.43", "0.43 · 0.55")
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate("document.activeElement.dataset.id") == "exp:0,1,0"
    again, _ = opened(chromium, pages / "chapter.html", 1440)
    again.goto(tab.url)
    again.reload()
    assert again.url == tab.url
    assert again.locator(".flow g.later").count() == later.count()
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Save SVG").click()
    svg = Path(download.value.path()).read_text("utf-8")
    assert svg.startswith("<svg")
    assert "2.5971" in svg or "?" in svg
    assert not wrong


def test_figure_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A figure of the chapter is a page of its own."""
    main(["explain", "figure=3.9", f"folder={tmp_path}"])
    text = (tmp_path / "figure_3.9" / "index.html").read_text("utf-8")
    assert "<h1>Figure 3.9: Scores become weights</h1>" in text
    assert '"start":{"number":"3.9"' in text
    assert ALPHA in json.loads(re.findall(r'id="flow-data">(.*?)</script>', text)[0])["flows"][0]["nodes"][-2]["letter"]
