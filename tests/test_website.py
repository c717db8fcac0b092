"""Links lead somewhere, commands of the pages can be typed, and the site works from a folder without a network."""

import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from docs.website import config_keys, variant_pages
from docs.website.source_lines import code_of
from docs.website.staged import ROOT, links, sources
from docs.website.used_by import types_of
from docs.website.variant_pages import table_rows
from tests.inspection.tab_server import browser
from tests.laws.cases import NAMES
from tests.limits import HANG

from attnlab.attention.mask import Window
from attnlab.attention.native_sparse import NativeSparseAttention
from attnlab.cli._arguments import COMMANDS, parsed
from attnlab.config.compose import compose_config
from attnlab.errors import UsageError

PAGES = [ROOT / "README.md", *sources()]
HEADING = re.compile(r"^#+ (.+)$", re.M)


def anchors(text: str) -> set[str]:
    """What GitHub calls the headings of a page."""
    titles = [re.sub(r"[^\w\s-]", "", title.lower()) for title in HEADING.findall(text)]
    return {title.strip().replace(" ", "-") for title in titles}


def dead_links(file: Path, text: str) -> Iterator[str]:
    """The links of a page that lead nowhere in the repository."""
    for target in links(text):
        path, _, anchor = target.partition("#")
        there = (file.parent / path).resolve() if path else file
        if not there.exists() or (
            anchor and anchor not in anchors(text if path == "" else there.read_text(encoding="utf-8"))
        ):
            yield target


def test_links() -> None:
    """Every relative link of the Markdown leads to a file, and to a heading where it names one."""
    for file in PAGES:
        assert [*dead_links(file, file.read_text(encoding="utf-8"))] == [], file.relative_to(ROOT)
    text = "# One\n[a](nothing.md) [b](#two) [c](#one) [d](https://example.org/x.md)\n```\n[e](nothing.md)\n```\n"
    assert [*dead_links(ROOT / "README.md", text)] == ["nothing.md", "#two"]


def commands(pages: Sequence[Path]) -> list[list[str]]:
    """The commands of pages, without their remarks."""
    lines = [line for page in pages for line in page.read_text(encoding="utf-8").splitlines()]
    typed = [line for line in lines if re.match(r"( {4})?(python train\.py|attnlab) (?!and )[^\\]*$", line)]
    return [shlex.split(line, comments=True) for line in typed]


@pytest.mark.parametrize(("pages", "least"), [(PAGES[:1], 5), pytest.param(PAGES, 90, marks=pytest.mark.slow)])
def test_commands(pages: Sequence[Path], least: int) -> None:
    """Each command of the pages is one that can be typed: its keys exist, and its settings compose."""
    typed = commands(pages)
    assert len(typed) >= least
    for program, name, *words in typed:
        if program == "attnlab" and name in COMMANDS and name != "train":
            parsed(name, words)
        elif program == "python" and not {"-m", "--help", "--config-dir"} & {*words}:
            compose_config([word for word in words if not word.startswith("init_from")])
    swept = [word.partition("=")[2] for words in typed for word in words if word.startswith("attention=")]
    assert {name for word in swept for name in word.split(",")} <= {*NAMES, "my_rule", "my_sharpness", "moving_average"}


def test_start_commands() -> None:
    """What the first page says can be typed; a wrong key is refused."""
    test_commands([ROOT / "docs" / "start.md"], 20)
    with pytest.raises(UsageError, match="rnu"):
        parsed("generate", ["rnu=runs/default", "prompt=x"])


NAMED = ("cross_layer", "gqa", "head_mix", "hybrid", "multi_head", "sliding_window", "causal", "ttt")  # have pages here


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, with the pages of a few variants."""
    pytest.importorskip("sphinx", reason="Sphinx is not installed: pip install -e '.[site]'")
    folder = tmp_path_factory.mktemp("site")
    code = f"from docs.website.__main__ import build; from pathlib import Path; build(Path({str(folder)!r}), {NAMED})"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=HANG)
    return folder


class Addresses(HTMLParser):
    """The ids of a page, and what it links to and loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids |= {value for name, value in attrs if name == "id" and value}
        if tag == "a" and (target := values.get("href")):
            self.links.append(target)
        elif target := values.get("src") or values.get("href"):
            self.loads.append(target)


def dead_ends(folder: Path) -> Iterator[str]:
    """Links of a built site that lead nowhere, and what its pages load from elsewhere."""
    pages = {file: Addresses(file.read_text(encoding="utf-8")) for file in sorted(folder.rglob("*.html"))}
    for file, page in pages.items():
        for target in [*page.links, *page.loads]:
            name = f"{file.relative_to(folder)}: {target}"
            scheme = target.partition(":")[0] if ":" in target.partition("/")[0] else ""
            if scheme:
                if target in page.loads and scheme != "data":
                    yield name
                continue
            path, _, anchor = target.partition("#")
            there = (file.parent / unquote(path.partition("?")[0])).resolve() if path else file
            if not there.is_file() or (anchor and there in pages and unquote(anchor) not in pages[there].ids):
                yield name


@pytest.mark.slow
def test_site(site: Path, tmp_path: Path) -> None:
    """Every link of every page leads somewhere in the folder, and nothing is loaded from elsewhere."""
    assert [*dead_ends(site)] == []
    assert len([*site.glob("*.html")]) > 30 and len([*site.glob("variants/*.html")]) == len(NAMED)
    text = '<a href="b.html">b</a> <a href="#no">c</a> <script src="https://example.org/x.js"></script><a href="http://a.b">'
    (tmp_path / "a.html").write_text(text)
    assert [*dead_ends(tmp_path)] == ["a.html: b.html", "a.html: #no", "a.html: https://example.org/x.js"]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


SHOWN = ("index", "start", "variants", "variants/gqa", "variants/ttt", "config", "python", "verdicts", "DESIGN")


AUDITED = ((1440, "light"), (390, "dark"))  # an audit takes longer than all else


def audit(screen: Any) -> list[dict[str, Any]]:
    """What axe finds in a page."""
    from axe_playwright_python.sync_playwright import Axe

    return Axe().run(screen, options={"preload": False}).response["violations"]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 1024, 390])
def test_pages(site: Path, chromium: Any, width: int, scheme: str) -> None:
    """No request, no error, nothing wider than the window, and nothing that a reader who cannot see would miss."""
    screen = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    troubles: list[str] = []
    screen.on("console", lambda line: troubles.append(line.text) if line.type == "error" else None)
    screen.on("pageerror", lambda error: troubles.append(str(error)))
    screen.on("request", lambda request: None if request.url.startswith("file:") else troubles.append(request.url))
    for name in SHOWN:
        screen.goto((site / f"{name}.html").as_uri())
        wider = screen.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        serious = [
            f"{rule['id']}: {node['html'][:200]}"
            for rule in (audit(screen) if (width, scheme) in AUDITED else ())
            if rule["impact"] in ("serious", "critical")
            for node in rule["nodes"]
        ]
        assert (wider, serious, troubles) == (0, [], []), name
    screen.close()


@pytest.mark.slow
def test_search(site: Path, chromium: Any) -> None:
    """What is searched for is found without a network."""
    screen = chromium.new_page()
    screen.goto((site / "search.html").as_uri() + "?q=grouped-query")
    screen.wait_for_selector("ul.search li a", timeout=1000 * HANG)
    assert "variants/gqa.html" in " ".join(
        link.get_attribute("href") for link in screen.locator("ul.search li a").all()
    )
    screen.close()


def test_every_key_has_a_comment() -> None:
    """The page of the config holds every key of every file, each with a sentence; one without is found."""
    text = config_keys.page()
    assert {*config_keys.GROUPS} == {path.name for path in config_keys.CONFIGS.iterdir() if path.is_dir()} - {"claim"}
    assert "| `trainer.max_steps` | `600` | optimizer updates |" in text and "`attention/mask=window`" in text
    assert [line for line in text.splitlines() if line.startswith("| `") and line.endswith("|  |")] == []
    (bare, above, beside) = config_keys.keys("a: 1\nb:\n  # above\n  c: 2\n  d: [3]  # beside\n")
    assert (bare, above, beside) == (("a", "1", ""), ("b.c", "2", "above"), ("b.d", "[3]", "beside"))


def test_used_by() -> None:
    """Who uses a variant is said of variants that there are; types are those whose layers are of it."""
    assert {*variant_pages.USED_BY} <= {*NAMES}
    assert all([*used] == ["others"] for used in variant_pages.USED_BY.values())
    of = {name: set(types_of(name)) for name in ("multi_head", "gqa", "mqa", "mla", "mla_nope", "gated", "gated_delta")}
    assert "gpt2" in of["multi_head"] and "llama" not in of["multi_head"] and {"llama", "qwen3"} <= of["gqa"]
    assert "falcon" in of["mqa"] and "deepseek_v3" in of["mla"] and not of["mla_nope"]
    assert "qwen3_next" in of["gated"] & of["gated_delta"] and "llama" not in of["gated"]
    assert "gemma2" in types_of("gemma2") and "gemma2" not in types_of("gemma3")


def test_rows_of_other_pages() -> None:
    """A page of a variant repeats what was measured of it, by the line; of another it says nothing."""
    text = "| a | b |\n|---|---|\n| `x` | 1 |\n| y, layer 0 | 2 |\n\n| c | d |\n|---|---|\n| case | `attention=x` |\n"
    assert [*table_rows(text, "x")] == [
        (["| a | b |", "|---|---|"], ["| `x` | 1 |"]),
        (["| c | d |", "|---|---|"], ["| case | `attention=x` |"]),
    ]
    assert [rows for _, rows in table_rows(text, "y")] == [["| y, layer 0 | 2 |"]] and not [*table_rows(text, "z")]
    assert "| mla | linear | 320.0 |" in "\n".join(variant_pages.measured("mla"))
    assert "Medians over the seeds" in "\n".join(variant_pages.tested_claims("fox"))


def test_code_of_a_class() -> None:
    """The lines of a class that state its rule are in its source, without its docstring and its options."""
    text = code_of(Window)
    assert "def visible" in text and '"""' not in text and "option(" not in text
    assert len(code_of(NativeSparseAttention).splitlines()) < len(inspect.getsource(NativeSparseAttention).splitlines())
