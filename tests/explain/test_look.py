"""The page on which a text is typed: what it says is what the model computes, and it answers nobody else."""

import json
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
import torch
from tests.explain.test_explain import tiny_model
from tests.training.launch import folder_of, run_there

from attnlab.build import build_model
from attnlab.config.compose import compose_config
from attnlab.data.tokenizers import ByteTokenizer
from attnlab.errors import UsageError
from attnlab.explain.look.look_page import reading_page
from attnlab.explain.look.reader import MOST_CHARACTERS, MOST_ROWS, Question, TextReader, softmax_at
from attnlab.explain.look.server import Server, question
from attnlab.inspection.map_page.page import layer_numbers
from attnlab.inspection.maps import collect
from attnlab.inspection.records import half
from attnlab.model import GPT

TEXT = "ab <b>&é"


def reader_of(attention: str = "gqa") -> TextReader:
    return TextReader("run", 7, tiny_model(attention), ByteTokenizer())


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(reader_of(), 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()


def asked(server: Server, path: str = "", *, host: str | None = None, **fields: Any) -> tuple[int, str]:
    """The code and the text of an answer; a path that begins with / is from the root."""
    address = server.address if not path.startswith("/") else f"http://127.0.0.1:{server.server_port}"
    request = urllib.request.Request(f"{address}{path}" + (f"?{urlencode(fields)}" if fields else ""))
    if host is not None:
        request.add_header("Host", host)
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


class Cells(HTMLParser):
    """The rows of all tables of a page, as text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._in = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        self._in = tag in ("td", "th") or (self._in and tag == "a")
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self._in:
            self.rows[-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._in = self._in and tag == "a"


def number(text: str) -> float:
    return float(text.replace("\N{MINUS SIGN}", "-"))


def test_next(server: Server) -> None:
    """Probabilities are the softmax of the logits after the followed token, sharper where it is colder."""
    model = server.reader.model
    ids = torch.tensor([list(TEXT.encode())])
    for token, temperature in ((len(TEXT.encode()) - 1, 1.0), (3, 0.25)):
        code, page = asked(server, text=TEXT, token=token, temperature=temperature)
        assert code == 200
        with torch.no_grad():
            expected = (model(ids)[0, token].double() / temperature).softmax(0).sort(descending=True).values
        rows = [row for row in Cells(page).rows if len(row) == 3][1:]
        assert [number(row[1]) for row in rows] == pytest.approx(expected[: len(rows)].tolist(), abs=6e-5)


def test_temperature() -> None:
    """At 0 all is on the likeliest, near it nothing overflows."""
    logits = np.array([1.0, 3.0, 2.0])
    assert softmax_at(logits, 0).tolist() == softmax_at(logits, 1e-300).tolist() == [0, 1, 0]
    assert softmax_at(logits, 1) == pytest.approx(np.exp(logits) / np.exp(logits).sum())


@pytest.mark.parametrize(
    "attention",
    ["gqa", *(pytest.param(name, marks=pytest.mark.slow) for name in ("multi_head", "sliding_window", "mla"))],
)
def test_coordinates(attention: str) -> None:
    """Products add up to q k, and their softmax after scale and mask is the map that the model uses."""
    reader = reader_of(attention)
    reading = reader.read(Question("abcdefgh", token=6, layer=1, head=1))
    c = reading.coordinates
    assert c is not None
    assert c.products.sum(1) == pytest.approx(c.sums, abs=1e-4)
    exp = np.exp(c.scores - c.scores.max())
    expected = reading.maps.layers[1].weights[1, 6]
    assert exp / exp.sum() == pytest.approx(expected, abs=1e-5) and c.weights == pytest.approx(expected, abs=1e-6)
    page = reading_page(reader, reading)
    rows = {row[0]: row for row in Cells(page).rows if len(row) > 5}
    assert [number(text) for text in rows["a (0)"][5:]] == pytest.approx(c.products[0].tolist(), abs=6e-5)
    assert number(rows["sum of all"][3]) == pytest.approx(exp.sum(), abs=6e-5)


@pytest.mark.parametrize("attention", ["linear", "cope"])
def test_no_scores(attention: str) -> None:
    """Of what is no dot product, or no softmax of it, nothing is shown that is not so."""
    reader = reader_of(attention)
    reading = reader.read(Question("abcdefgh"))
    page = reading_page(reader, reading)
    if attention == "cope":
        assert reading.coordinates is not None
    else:
        assert reading.coordinates is None and "no scores that are one dot product" in page
    assert ("divided by its sum is the weight" in page) == (attention == "cope")


def test_long_text(server: Server) -> None:
    """Of many tokens those with the largest weights are shown coordinate by coordinate."""
    reading = server.reader.read(Question("abcdefgh" * 4))
    rows = [row for row in Cells(reading_page(server.reader, reading)).rows if len(row) > 5]
    assert len(rows) == MOST_ROWS + 3


def test_many_heads() -> None:
    """A long text in 12 x 12 heads: one pass, small maps in a page of less than 2 MB, the rest when it is asked for."""
    words = ["model.n_layers=12", "model.n_heads=12", "model.d_model=48", "model.context=256"]
    torch.manual_seed(0)
    reader = TextReader("run", 7, build_model(compose_config(words), 256).eval(), ByteTokenizer())
    passes: list[int] = []
    reader.model.register_forward_hook(lambda *_: passes.append(1))
    text = "Nobody opens the box. " * 11
    pages = [reading_page(reader, reader.read(Question(text, token=7, layer=i, head=3))) for i in (0, 11)]
    assert len(passes) == 1 and max(map(len, pages)) < 2_000_000
    expected = half(collect(reader.model, list(text.encode()))[4].weights)
    numbers = np.frombuffer(zlib.decompress(layer_numbers(reader.maps(text), 4)), "<f2")
    np.testing.assert_allclose(numbers[: 12 * 242 * 243 // 2], expected[:, *np.tril_indices(242)].ravel(), atol=1e-3)
    data = json.loads(pages[0].partition('id="maps">')[2].partition("</script>")[0])
    assert all("numbers" not in layer and len(layer["heads"]) == 12 for layer in data["layers"])
    assert data["later"].startswith("map?text=Nobody")


def test_numbers_of_a_layer(server: Server) -> None:
    """They are sent as they are; of a layer that has none, it is said."""
    with urllib.request.urlopen(f"{server.address}map?text=abcd&layer=1", timeout=60) as reply:
        assert reply.read() == layer_numbers(server.reader.maps("abcd"), 1)
    assert asked(server, "map", text="abcd", layer=9)[0] == 400


def test_escaped(server: Server) -> None:
    """What is typed is no markup anywhere in the page, and stands in its links."""
    hostile = "</script><img src=x onerror=alert(1)>"[:30]
    code, page = asked(server, text=hostile)
    assert code == 200 and "<img" not in page and "</textarea><" not in page.split("</textarea>")[0]
    assert asked(server, "steps", text=TEXT)[0] == 200


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": ""}, "text (0 tokens) must hold at least one token"),
        (
            {"text": "x" * 200},
            "text (200 tokens) must hold at least one token and no more than the model's context (32)",
        ),
        ({"text": "x" * (MOST_CHARACTERS + 1)}, "text (20,001 characters) must have at most 20,000"),
        ({"text": "ab", "token": 2}, "token (2) must be below the number of tokens (2)"),
        ({"text": "ab", "layer": 9}, "layer (9) must be below the number of layers"),
        ({"text": "ab", "head": 99}, "head (99) must be below the number of heads"),
        ({"text": "ab", "head": "x"}, "head ('x') must be a number"),
        ({"text": "ab", "token": -3}, "token (-3) must be at least 0"),
        ({"text": "ab", "temperature": "nan"}, "temperature (nan) must be at least 0"),
        ({"text": "ab", "temperature": 1e9}, "temperature (1e+09) must be from 0"),
    ],
)
def test_refused(server: Server, fields: dict[str, Any], message: str) -> None:
    """In one line, above which the form stays as it was."""
    code, page = asked(server, **fields)
    (line,) = [part.partition("</p>")[0] for part in page.split('role="alert">')[1:]]
    assert code == 400 and message in line.replace("&#x27;", "'") and "\n" not in line


def test_strangers(server: Server) -> None:
    """Neither another host's name nor another token is answered, nor any other method; and no path leads elsewhere."""
    for host in ("evil.example", f"evil.example:{server.server_port}", "127.0.0.1"):
        code, text = asked(server, host=host, text="ab")
        assert code == 403 and text.count("\n") == 1 and "textarea" not in text
    for path in ("/", "/x/", "/?text=ab", f"/{server.token[:-1]}/"):
        code, text = asked(server, path)
        assert code == 403 and text.count("\n") == 1
    assert asked(server, host=f"localhost:{server.server_port}")[0] == 200
    assert asked(server, "../../etc/passwd")[0] == 404
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(server.address, data=b"text=ab", timeout=60)
    with error.value:
        assert error.value.code == 501
    assert server.server_address[0] == "127.0.0.1"


def test_trouble(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a variant of somebody's own does wrong is said in the page, which goes on."""
    monkeypatch.setattr(server.reader.model, "forward", lambda ids: 1 / 0)
    code, page = asked(server, text="abc")
    assert code == 500 and "this run cannot read it (ZeroDivisionError: division by zero)" in page
    monkeypatch.undo()
    assert asked(server, text="abc")[0] == 200


def test_address() -> None:
    """An address holds all that was asked; too many fields are refused."""
    assert question("text=a+b&token=2&layer=1&head=3&temperature=0.5") == Question("a b", 2, 1, 3, 0.5)
    with pytest.raises(UsageError, match="too many fields"):
        question("&".join("text=a" for _ in range(11)))


def test_port_taken() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(UsageError, match=rf"^port \({other.getsockname()[1]}\) cannot be used .*; 0 takes a free"):
            Server(reader_of(), other.getsockname()[1])


def test_diverged() -> None:
    """A model whose weights are no numbers any more says so."""
    model: GPT = tiny_model("gqa")
    with torch.no_grad():
        next(iter(model.parameters())).fill_(torch.nan)
    with pytest.raises(Exception, match="not finite: its weights have diverged"):
        TextReader("run", 7, model, ByteTokenizer()).read(Question("ab"))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 1024, 390])
def test_page(server: Server, width: int, scheme: str) -> None:
    """In a browser: typed, read, a head chosen; no request elsewhere, no error, nothing wider than the window, nothing
    that a reader who cannot see would miss."""
    from axe_playwright_python.sync_playwright import Axe
    from tests.inspection.tab_server import browser

    with browser() as chromium:
        page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        troubles: list[str] = []
        page.on("console", lambda line: troubles.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda sent: None if sent.url.startswith(server.address) else troubles.append(sent.url))
        page.goto(server.address)
        page.fill("textarea", "abcdefgh")
        page.click("button[type=submit]")
        page.wait_for_selector("body[data-drawn]")
        page.click(".tokens li:nth-child(3) a")
        page.wait_for_selector("body[data-drawn]")
        assert "token=2" in page.url and "“c” (2)" in page.inner_text("h2 >> nth=0")
        for choose in (None, ".thumb >> nth=1"):
            if choose:
                page.click(choose)
                assert "What “c” (2) reads" in page.inner_text(".side h3")
            wider = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            serious = [
                f"{rule['id']}: {node['html'][:200]}"
                for rule in Axe().run(page, options={"preload": False}).response["violations"]
                if rule["impact"] in ("serious", "critical")
                for node in rule["nodes"]
            ]
            assert (wider, serious, troubles) == (0, [], [])


@pytest.mark.slow
def test_command(tmp_path: Path) -> None:
    """The command prints its address, reads what is asked there, and ends on Ctrl-C without a traceback."""
    assert run_there(tmp_path).returncode == 0
    command = [sys.executable, "-m", "attnlab", "look", f"run={folder_of(tmp_path)}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            address = process.stdout.readline().split()[-1]
            with urllib.request.urlopen(f"{address}?text=The+goat", timeout=60) as reply:
                assert b"What comes after" in reply.read()
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130 and "Traceback" not in process.stderr.read()
        finally:
            process.kill()


def test_a_reader_that_goes_away(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    """A browser that closes the page before its answer is there costs the terminal no traceback; a fault would."""
    for error, told in ((BrokenPipeError, False), (ConnectionResetError, False), (ZeroDivisionError, True)):
        try:
            raise error
        except (OSError, ArithmeticError):
            server.handle_error(None, ("127.0.0.1", 1))
        assert bool(capfd.readouterr().err) is told
