"""The worked example of any variant: its steps add up, its page stands alone, and looking changes nothing."""

import io
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.cells import cell_len
from rich.console import Console

from attnlab.attention.evaluating import evaluating
from attnlab.attention.shared import Shared
from attnlab.build import build_model
from attnlab.cli import main
from attnlab.config.compose import compose_config, config_dir
from attnlab.data.tokenizers import ByteTokenizer
from attnlab.errors import UsageError
from attnlab.explain import chapter
from attnlab.explain.compare import Pairing
from attnlab.explain.example import explained_run
from attnlab.explain.explanations import compared, variant
from attnlab.explain.html import page
from attnlab.explain.pictures import draw_step
from attnlab.explain.steps import Explanation
from attnlab.explain.terminal import show
from attnlab.explain.trace import trace
from attnlab.model import GPT

VARIANTS = sorted(file.stem for file in (config_dir() / "attention").glob("*.yaml"))
# One of each family: chapter, shared keys, a mask, a chain of scores, a normaliser, two maps, latents, a mixture of
# heads, a selection, layers that share, a fixed memory, a delta rule, no map, no mixing.
FAMILIES = [
    "simple",
    "gqa",
    "sliding_window",
    "cope",
    "sigmoid",
    "differential",
    "mla",
    "head_mix",
    "nsa",
    "cross_layer",
]
FAMILIES += ["linear", "gated_delta", "ttt", "identity"]
PAGE_BYTES = 2_000_000
HOSTILE = ['<img src=x onerror="alert(1)">', "</script><b>", "&lt;", "\n", "\u202e", "it's"]


class Reader(HTMLParser):
    """The tags of a page, what they load, and whether each one that was opened is closed."""

    VOID = frozenset({"meta", "img", "br", "i"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loads += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def check(e: Explanation, text: str) -> None:
    """What holds for every worked example and its page."""
    assert e.tokens == list(chapter.TOKENS)
    assert [e.steps[0].key, e.tokens[e.focus]] == ["inputs", "journey"]
    keys = [step.key for step in e.steps]
    assert len(set(keys)) == len(keys)
    assert "output" in keys
    for step in e.steps:
        shown = step.values if step.hidden is None else step.values[~step.hidden]
        assert np.isfinite(shown).all(), step.key
        assert step.title
        assert step.text
    weights, values, context = e.map, e.step("v") or e.step("inputs"), e.step("context")
    if weights is not None and values is not None and context is not None and len(values.values) <= len(context.values):
        groups = len(context.values) // len(values.values)  # query heads that share a value
        v = values.values.repeat(groups, axis=0)
        if len(weights.values) == len(v):  # o = A v, head by head
            np.testing.assert_allclose(weights.values @ v, context.values, rtol=1e-4, atol=1e-5)
    found = Reader(text)
    assert not found.open
    assert all(what.startswith(("#", "data:image/png;base64,")) for what in found.loads), "the page needs another file"
    assert len(text.encode()) < PAGE_BYTES


@pytest.mark.parametrize("name", FAMILIES)
def test_steps_add_up(name: str) -> None:
    """A variant of each family is explained and its steps add up."""
    e = variant(name)
    check(e, page(name, [e]))


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_pages_stay_small(name: str) -> None:
    """Every variant is explained within the limit of size."""
    pairing = compared(name, "multi_head")
    text = page(name, [pairing.one], pairing)
    check(pairing.one, text)
    assert {pairing.one.tokens[i] for i in range(6)} == {pairing.other.tokens[i] for i in range(6)}
    own = variant(name)
    check(own, page(name, [own]))
    for only, beside in ((False, None), (True, None), (False, pairing), (True, pairing)):
        console = Console(file=io.StringIO(), width=80, color_system=None)
        show(own if beside is None else beside.one, console, beside, only=only)
        assert isinstance(console.file, io.StringIO)
        assert max(map(cell_len, console.file.getvalue().splitlines())) <= 80
    for step in own.steps:
        assert draw_step(step, own.tokens).size > (100, 50)


def test_linear_memory_is_a_sum() -> None:
    """S_i = S_(i-1) + phi(k_i) [v_i, 1]^T, arXiv:2006.16236; computed here from the keys and values that are shown."""
    e = variant("linear")
    k, v, kept, written = (e.step(key) for key in ("k", "v", "state.matrix", "state.matrix.written"))
    assert k is not None
    assert v is not None
    assert kept is not None
    assert written is not None
    with_one = np.concatenate([v.values, np.ones_like(v.values[..., :1])], axis=-1)  # its sum normalises the output
    outer = np.einsum("htd,htv->thdv", k.values, with_one)
    np.testing.assert_allclose(written.values, outer, atol=1e-5)
    np.testing.assert_allclose(kept.values, outer.cumsum(0), atol=1e-5)


def test_window_marks_hidden_keys() -> None:
    """What a window hides is marked and nothing else."""
    e = variant("sliding_window", overrides=["attention.mask.window=2"])
    assert e.map is not None
    assert e.map.hidden is not None
    i, j = np.indices((6, 6))
    np.testing.assert_array_equal(e.map.hidden[0], (j > i) | (j <= i - 2))


def test_a_layer_without_a_map_says_so() -> None:
    e = variant("ttt")
    assert e.map is None
    assert not e.linear
    assert any("no attention map" in note for note in e.notes)


# Comparison


def test_variant_beside_itself() -> None:
    """A variant beside itself is the same in every step."""
    pairing = compared("gqa", "gqa")
    verdicts = {pairing.verdict(step.key) for step in pairing.one.steps if step.part != "dropout"}
    assert verdicts == {"the same as in gqa"}
    assert pairing.verdict("dropout") == "drawn by chance, here and in gqa: not compared"
    assert pairing.summary.startswith("the same: Input vectors, ") and ";" not in pairing.summary
    assert not pairing.missing


def test_other_normaliser_keeps_scores() -> None:
    """Another normaliser changes weights and what follows but no score."""
    pairing = compared("sigmoid", "multi_head")
    assert pairing.difference("q") == pairing.difference("k") == pairing.difference("v") == 0
    assert pairing.difference("masked") == 0
    gap = pairing.difference("weights")
    assert gap is not None
    assert gap > 0.01
    assert pairing.verdict("weights") == f"differs from multi_head by up to {gap:.4g}"
    text = page("sigmoid", [pairing.one], pairing)
    assert text.count('<span class="badge same">') >= 5
    assert text.count("in multi_head</h5>") >= 2


def test_other_masks_are_never_the_same() -> None:
    """The chapter shows `self` without a mask, beside `causal`: maps and outputs differ, and so do their settings."""
    for pairing in (compared("causal", "self"), compared("self", "causal")):
        assert pairing.verdict("weights").startswith(("other pairs may be read", "differs"))
        assert pairing.verdict("context").startswith("differs from")
        assert "causal (" in pairing.settings and "mask (" in pairing.settings and "dropout (" in pairing.settings


def test_heads_are_dealt_the_same_matrices() -> None:
    """Heads side by side are one layer of heads, but for the output projection."""
    for pairing in (compared("multi_head", "stacked_heads"), compared("stacked_heads", "multi_head")):
        for key in ("q", "k", "v", "weights", "context"):
            assert pairing.verdict(key).startswith("the same as in"), key
        assert pairing.verdict("output").startswith("differs from")
        assert "W_q, W_k, W_v the same in both; W_o, b_o only in multi_head" in pairing.numbers
        assert pairing.summary.endswith("; differ: Output")


def test_full_beside_masked() -> None:
    """The step from `self` to `causal`: the same down to the scores, then a mask that one of both has, in its place."""
    pairing = compared("self", "causal")
    keys = [step.key for _, step in pairing.steps]
    assert [owner.name for owner, step in pairing.steps if step.key == "masked"] == ["causal"]
    assert keys.index("scaled") < keys.index("masked") < keys.index("weights") and len(set(keys)) == len(keys)
    assert all(pairing.same(key) for key in ("inputs", "q", "k", "v", "dot", "scaled"))
    assert not pairing.same("weights") and not pairing.same("context")


def test_both_ways_to_mask() -> None:
    """tril after the softmax, rows divided by their sums: the weights that -inf before the softmax gives."""
    e = variant("causal")
    every, tril, rows, weights = (e.step(key) for key in ("first.all", "first.tril", "first.rows", "weights"))
    assert every is not None and tril is not None and rows is not None and weights is not None
    np.testing.assert_array_equal(tril.values, every.values * np.tri(6, dtype=np.float32))
    np.testing.assert_allclose(rows.values, weights.values, atol=1e-6)
    assert not np.allclose(tril.values, weights.values, atol=1e-2)


def test_heads_that_share() -> None:
    """Beside full heads those that share have their means, whichever of both comes first, and as many queries."""
    for names in (("gqa", "multi_head"), ("multi_head", "gqa")):
        pairing = compared(*names)
        few, many = (pairing.one, pairing.other) if names[0] == "gqa" else (pairing.other, pairing.one)
        k, own = few.step("k"), many.step("k")
        assert k is not None and own is not None and pairing.same("q")
        np.testing.assert_allclose(k.values, own.values.reshape(2, 2, *own.values.shape[1:]).mean(axis=1), atol=1e-6)


def test_dropped() -> None:
    """What dropout drops is told apart from what may not be read, and a row that it drops whole has a note."""
    e = variant("causal")
    step = e.step("dropout")
    assert step is not None and step.hidden is not None
    np.testing.assert_array_equal(step.hidden[0], np.tri(6) == 0)
    whole = not step.values[0, e.focus].any()
    assert any("all weights of journey are dropped" in note for note in e.notes) == whole
    assert variant("stacked_heads").step("dropout") is None  # the chapter's heads drop nothing
    heads = variant("stacked_heads", overrides=("attention.kinds.causal.dropout=0.5",)).step("dropout")
    assert heads is not None and len(heads.values) == 2


def test_small_numbers_are_compared_by_their_size() -> None:
    one, other = (variant("multi_head") for _ in range(2))
    tiny = [
        replace(e, steps=[replace(e.steps[0], values=e.steps[0].values * f)]) for e, f in ((one, 1e-9), (other, 2e-9))
    ]
    key = one.steps[0].key
    assert Pairing(one, other).same(key) and not Pairing(*tiny).same(key)


def test_steps_of_one_side_alone_are_named() -> None:
    pairing: Pairing = compared("linear", "multi_head")
    assert pairing.verdict("map") == "only in linear"
    assert "dot" in {step.key for step in pairing.missing}
    assert "Steps that only multi_head takes" in page("linear", [pairing.one], pairing)


# Hostile tokens, long texts, trained runs


def test_no_token_becomes_markup() -> None:
    e = replace(variant("causal"), tokens=HOSTILE)
    text = page("<i>title</i>", [e])
    assert "<img src=x" not in text
    assert "</script><b>" not in text
    assert "<i>title" not in text
    assert "\u202e" not in text
    assert "&lt;img src=x onerror=&quot;alert(1)&quot;&gt;" in text
    assert "&amp;lt;" in text


def tiny_model(attention: str = "multi_head") -> GPT:
    words = ["model.n_layers=2", "model.d_model=16", "model.n_heads=2", "model.context=32", f"attention={attention}"]
    torch.manual_seed(0)
    return build_model(compose_config(words), 256).eval()


@pytest.mark.parametrize("attention", ["multi_head", "linear", "value_residual"])
def test_explains_layer_of_model(attention: str) -> None:
    """A layer of a model is explained on any text with what the model computes."""
    model, prompt = tiny_model(attention), "abc <b> é of more than twelve"
    e = explained_run("run", model, ByteTokenizer(), prompt, layer=2, token=None)
    ids = list(prompt.encode())
    assert len(e.tokens) == len(ids)
    assert e.focus == len(ids) - 1
    assert e.map is not None
    with torch.no_grad():
        expected = model.attention_maps(torch.tensor([ids]))[1].weights
    assert expected is not None
    np.testing.assert_allclose(e.map.values, expected[0].numpy(), atol=1e-6)
    with torch.no_grad():
        best = model(torch.tensor([ids]))[0].softmax(dim=-1).topk(5)
    words = e.flow.node("next")
    np.testing.assert_allclose(words.values, best.values.numpy(), atol=1e-6)
    assert words.labels[-1] == tuple(ByteTokenizer().labels(best.indices[-1].tolist()))
    with torch.no_grad():  # of the last block: what its output alone gives
        given_on = torch.from_numpy(e.flow.node("block").values)
        np.testing.assert_allclose(model.logits(given_on)[0].softmax(dim=-1).topk(5).values, words.values, atol=1e-6)
    text = page("run", [e])
    assert not Reader(text).open
    assert len(text.encode()) < PAGE_BYTES


@pytest.mark.slow
def test_page_of_long_text() -> None:
    """The page of a long text and many heads stays within the limit."""
    words = ["model.n_layers=1", "model.d_model=768", "model.n_heads=12", "model.context=256", "attention=multi_head"]
    model, prompt = build_model(compose_config(words), 256).eval(), "abcdefgh" * 32
    e = explained_run("run", model, ByteTokenizer(), prompt, layer=1, token=None)
    text = page("run", [e])
    assert len(text.encode()) < PAGE_BYTES
    step = e.step("weights")
    assert step is not None
    one = draw_step(step, e.tokens)
    assert one.mode == "P"
    assert one.height > 3 * len(e.tokens)


def test_looking_changes_nothing() -> None:
    """Looking changes neither weights nor methods nor random numbers."""
    model = tiny_model("cope")
    layer, x = model.layers[0].attention, torch.randn(1, 6, 16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    names, stream = [set(vars(module)) for module in layer.modules()], torch.get_rng_state()
    layer.train()
    trace(layer, x, Shared())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [set(vars(module)) for module in layer.modules()] == names
    assert torch.equal(torch.get_rng_state(), stream)
    assert layer.training
    with evaluating(layer), torch.no_grad():
        np.testing.assert_array_equal(trace(layer, x, Shared())[-1].values[0], layer(x)[0].numpy())


# What is typed


def typed(*words: str) -> int:
    try:
        main(["explain", *words])
    except SystemExit as end:
        return int(str(end.code))
    return 0


def test_command_writes_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints tables and writes a page and a picture per step."""
    assert typed("attention=causal", "against=sliding_window", "token=one", f"folder={tmp_path}") == 0
    out = capsys.readouterr().out
    assert "following one, token 5 of 6" in out
    assert all(cell_len(line) <= 80 for line in out.splitlines() if not line.startswith("wrote "))
    assert "Weights by softmax" in out
    home = tmp_path / "causal-against-sliding_window"
    pictures = sorted(home.glob("*.png"))
    assert len(pictures) >= 9
    assert f"wrote {home / 'index.html'}" in out
    for picture in pictures:
        with Image.open(picture) as image:
            image.verify()
        assert picture.stat().st_size < 100_000


def test_pictures_go_to_tensorboard_where_asked(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert typed("attention=simple", f"folder={tmp_path / 'a'}", f"tensorboard={tmp_path / 'logs'}") == 0
    seen = EventAccumulator(str(tmp_path / "logs")).Reload().Tags()["images"]
    assert seen[0] == "explain/simple/00_inputs"
    assert len(seen) >= 5


REFUSED: list[tuple[list[str], str]] = [
    (["attention=nothing"], "nothing"),
    (["attention=causal", "token=foot"], "token (foot) is not among the tokens"),
    (["attention=causal", "layer=99"], "layer (99) must be at most"),
    (["against=gqa"], "against=gqa needs attention=..."),
    (["run=somewhere"], "run needs prompt=..."),
    (["prompt=hello"], "prompt needs attention=... or run=..."),
    (["attention=gqa", "prompt= "], "prompt (0 words) must have 1 to 64 words"),
    (["figure=3.1"], "figure (3.1) must be one of 3.7, "),
    (["figure=3.9", "seed=1"], "seed (1) must be left out with figure"),
    (["run=a", "prompt=b", "attention=gqa"], "attention (gqa) must be left out with run"),
    (["run=a", "prompt=b", "attention.window=2"], "attention.window=2 must be left out with run"),
    (["attention=causal", "seed=-1"], "seed (-1)"),
    (["attention=causal", "init=other"], "init (other)"),
    (["attention=sliding_window", "attention.mask.window=0"], "window (0)"),
    (["attention=causal", "steps=wights"], "steps (wights) must be among: learned, inputs,"),
    (["atention=self"], "did you mean 'attention'"),
    (["attention=causal", "layer=0"], "layer (0)"),
    (["path=true", "attention=gqa"], "attention (gqa) must be left out with path=true"),
    (["path=true", "steps=scores,weights"], "steps (scores,weights) must be left out with path=true"),
    (["path=true", "layer=2"], "layer (2) must be left out with path=true"),
    (["path=true", "position=rope"], "position (rope) must be left out with path=true"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_refused_in_one_line(words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What makes no sense is refused in one line."""
    assert typed(*words, f"folder={tmp_path / 'out'}") == 2
    error: Any = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_layer_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(UsageError, match=r"layer \(3\) must be at most the number of layers"):
        explained_run("run", tiny_model(), ByteTokenizer(), "abc", layer=3, token=None)
