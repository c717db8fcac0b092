"""`attnlab maps`: the numbers are the model's, files read back, the page stands alone, what is wrong is refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from tests.inspection.tab_server import browser
from tests.limits import HANG
from tests.training.launch import folder_of, run_here

from attnlab.cli import main
from attnlab.errors import UsageError
from attnlab.inspection.map_page.page import _pooled, measures, page
from attnlab.inspection.prompt_maps import ChosenHeads, PromptMaps, load_prompt_maps, save_prompt_maps
from attnlab.runs import load, maps_of

PROMPT = "A <b>text</b>, its own."
HOSTILE = [
    '<img src=x onerror="window.hacked=1">',
    "</script><script>window.hacked=1</script>",
    "\u2028",
    "\ud800",
    "it's",
]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny finished run."""
    folder = tmp_path_factory.mktemp("done")
    small = ("trainer.max_steps=2", "maps.steps=2", "sample.steps=1", "model.d_model=16", "model.n_heads=4")
    run_here(folder, *small, variant="gqa")
    return folder_of(folder, "gqa")


def typed(*words: str) -> int:
    try:
        main(["maps", *words])
    except SystemExit as end:
        return int(str(end.code))
    return 0


def test_files_hold_maps(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files hold the maps that the model makes of the text."""
    assert typed(f"run={done}", f"prompt={PROMPT}", f"folder={tmp_path}") == 0
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == ["index.html", "layer_00.png", "layer_01.png", "maps.safetensors"]
    assert capsys.readouterr().out.splitlines()[-1] == f"wrote {tmp_path / 'index.html'}"
    model, tokenizer = load(done)
    ids = tokenizer.encode(PROMPT)
    with torch.no_grad():
        expected = model.attention_maps(torch.tensor([ids]))
    tensors = load_file(tmp_path / "maps.safetensors")
    names = [f"layer_{i:02d}.head_{h:02d}" for i in range(2) for h in range(4)]
    assert sorted(tensors) == sorted([*names, *(f"{name}.value_norm" for name in names)])
    for i, layer in enumerate(expected):
        assert layer.weights is not None
        assert layer.value_norm is not None
        for h in range(4):
            found = tensors[f"layer_{i:02d}.head_{h:02d}"]
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, layer.weights[0, h].numpy(), atol=1e-6)
            norm = tensors[f"layer_{i:02d}.head_{h:02d}.value_norm"]
            np.testing.assert_allclose(norm, layer.value_norm[0, h].numpy(), rtol=1e-5)
    with Image.open(tmp_path / "layer_00.png") as image:
        image.verify()


def test_chosen_heads(done: Path, tmp_path: Path) -> None:
    """Only the layers and heads that are named are written."""
    assert typed(f"run={done}", f"prompt={PROMPT}", "layers=1", "heads=[0,2-3]", f"folder={tmp_path}") == 0
    assert not (tmp_path / "layer_00.png").exists()
    maps = load_prompt_maps(tmp_path / "maps.safetensors")
    assert [(layer.layer, layer.heads) for layer in maps.layers] == [(1, [0, 2, 3])]
    every = maps_of(done, PROMPT)
    np.testing.assert_array_equal(maps.layers[0].weights, every.layers[1].weights[[0, 2, 3]])
    assert (maps.step, maps.text, "".join(maps.tokens)) == (2, PROMPT, PROMPT.replace(" ", "·"))


def test_default_folder(done: Path) -> None:
    """Without a folder the files go into the run."""
    assert typed(f"run={done}", "prompt=abc") == 0
    assert (done / "maps" / "prompt" / "index.html").is_file()


def test_maps_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(2, 5, 5)).astype(np.float32)
    layers = [
        ChosenHeads(0, "signed", [1, 12], weights, None),
        ChosenHeads(3, "probability", [0, 1], np.abs(weights), np.abs(weights[:, 0])),
    ]
    maps = PromptMaps("a/b", 7, "\u00e9<\u202e", ["<", "\u202e", "", " ", "\n"], layers, list("abcde"), False)
    save_prompt_maps(tmp_path / "maps.safetensors", maps)
    found = load_prompt_maps(tmp_path / "maps.safetensors")
    assert found._replace(layers=[]) == maps._replace(layers=[])
    for one, other in zip(found.layers, layers, strict=True):
        assert one[:3] == other[:3]
        np.testing.assert_array_equal(one.weights, other.weights)
        np.testing.assert_array_equal(one.value_norm, other.value_norm)


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "maps.safetensors").write_bytes(b"rubbish")
    with pytest.raises(UsageError, match="is damaged"):
        load_prompt_maps(tmp_path / "maps.safetensors")
    with pytest.raises(UsageError, match="does not exist"):
        load_prompt_maps(tmp_path / "none.safetensors")


REFUSED = [
    (["layers=2"], "layers (2) must be below the number of layers of the run (2)"),
    (["heads=4"], "heads (4) must be below the number of heads of these layers (4)"),
    (["heads=a"], "heads (a) must be integers of at most 9999, such as 0,2 or 1-3"),
    (["heads=3-1"], "heads (3-1) must be integers"),
    (["heads=0-99999999"], "heads (0-99999999) must be integers"),
    (["layers=[]"], "layers ([]) must name at least one integer"),
    (
        [f"prompt={'x' * 33}"],
        "prompt (33 tokens) must hold at least one token and no more than the model's context (32)",
    ),
    (["run=/nowhere"], "run (/nowhere) must be the folder of a run"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=[words[0][:20] for words, _ in REFUSED])
def test_refused_first(
    words: list[str], said: str, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What makes no sense is refused before anything is written."""
    keys = {word.partition("=")[0] for word in words}
    rest = [word for word in (f"run={done}", "prompt=abc") if word.partition("=")[0] not in keys]
    assert typed(*words, *rest, f"folder={tmp_path / 'out'}") == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


# The page


def example(tokens: list[str], kind: str = "probability") -> PromptMaps:
    t = len(tokens)
    scores = np.random.default_rng(1).normal(size=(3, t, t)) * 2
    weights = np.where(np.tril(np.ones((t, t), dtype=bool)), np.exp(scores), 0)
    weights = (np.tril(scores) if kind == "signed" else weights / weights.sum(-1, keepdims=True)).astype(np.float32)
    norms = np.abs(scores[:, 0]).astype(np.float32)
    return PromptMaps(
        "a/<b>", 3, "".join(tokens), tokens, [ChosenHeads(i, kind, [0, 1, 2], weights / (i + 1), norms) for i in (0, 1)]
    )


def test_page_is_closed() -> None:
    """The page loads nothing and no token can end its script."""
    text = page(example(HOSTILE))
    assert text.count("</script>") == 2
    assert "<img" not in text
    assert "src=" not in text.replace("src=x", "")
    assert "http" not in text
    assert "import " not in text.partition('<script type="module">')[2].replace("// ", "")
    assert text.encode()


def test_small_maps() -> None:
    """Of a long text a cell of the small map is the largest weight of its block, the first token stands alone."""
    maps = np.random.default_rng(0).normal(size=(2, 10, 10))
    small = _pooled(maps, 3)
    assert small.shape == (2, 4, 4)
    for head, i, j in np.ndindex(small.shape):
        rows, columns = ([0] if n == 0 else range(3 * n - 2, 3 * n + 1) for n in (i, j))
        block = maps[head][np.ix_(rows, columns)]
        assert small[head, i, j] == max(block.ravel(), key=abs)
    content = json.loads(page(example(["a"] * 200)).partition('id="maps">')[2].partition("</script>")[0])
    assert content["layers"][0]["small"]["shape"] == [101, 101] and "numbers" in content["layers"][0]


def test_how_heads_read() -> None:
    """Entropy, weight on the first token and distance are means over the rows that hold something."""
    maps = np.array([[[1, 0, 0], [0.5, 0.5, 0], [0, 0, 0]]])
    found = measures(maps, cross=False)
    assert found["entropy"] == [pytest.approx(np.log(2) / 2, abs=1e-5)]
    assert (found["start"], found["distance"]) == ([0.75], [0.25])
    assert measures(-maps, cross=True) == {key: found[key] for key in ("entropy", "start")}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["probability", "signed"])
def test_weights_in_a_browser(chromium: Any, tmp_path: Path, kind: str) -> None:
    """In a browser cells say the stored weights."""
    maps = example([*HOSTILE[:3], "one", " two"], kind)
    (tmp_path / "index.html").write_text(page(maps), encoding="utf-8")
    screen = chromium.new_page(viewport={"width": 1300, "height": 850})
    screen.set_default_timeout(1000 * HANG)
    errors: list[str] = []
    screen.on("pageerror", lambda error: errors.append(str(error)))
    screen.goto((tmp_path / "index.html").as_uri())
    screen.wait_for_selector("body[data-drawn]")
    assert screen.locator(".thumb").count() == 6
    screen.locator(".thumb").nth(4).click()  # layer 1, head 1
    assert screen.locator("h2").inner_text() == "layer 1, head 1"
    left, top, cell = (float(screen.get_attribute("canvas.map", f"data-{name}")) for name in ("left", "top", "cell"))
    cells = []
    for row in range(5):
        for column in range(row + 1):
            at = {"x": left + (column + 0.5) * cell, "y": top + (row + 0.5) * cell}
            screen.hover("canvas.above", position=at)
            said = screen.locator(".cell-text").inner_text()
            cells.append((row, column, float(said.rpartition("weight ")[2].partition(",")[0].replace("\u2212", "-"))))
    for row, column, value in cells:
        assert value == pytest.approx(float(maps.layers[1].weights[1, row, column]), rel=1e-3, abs=1e-6)
    screen.keyboard.press("ArrowUp")
    assert screen.locator("h2").inner_text() == "layer 0, head 1"
    screen.keyboard.press("ArrowRight")
    assert screen.locator("h2").inner_text() == "layer 0, head 2"
    screen.locator(".text span").nth(1).click()
    assert "(1) reads" in screen.locator("h3").first.inner_text()
    screen.select_option("select >> nth=1", "log")
    other = chromium.new_context(viewport={"width": 390, "height": 800}).new_page()  # another browser, sent the link
    other.goto(screen.url)
    other.wait_for_selector("h3")
    assert other.locator("h2").inner_text() == "layer 0, head 2" and other.url == screen.url
    assert "(1) reads" in other.locator("h3").first.inner_text()
    assert "log scale" in other.locator(".legend").inner_text()
    other.goto(screen.url.partition("#")[0] + "#view=elsewhere&at=99&row=-1&mode=x&off=a")  # what is wrong is left out
    other.reload()
    other.wait_for_selector(".thumb")
    other.context.close()
    screen.keyboard.press("Escape")
    assert screen.locator(".thumb").count() == 6
    assert screen.evaluate("window.hacked") is None
    assert not errors
    screen.close()
