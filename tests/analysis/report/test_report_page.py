"""The report as a page and as files for a paper: nothing is cut, links lead somewhere, and no network is asked."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from tests.analysis.folders import write_arm
from tests.inspection.tab_server import browser

from attnlab.analysis.analyse import Report, analyse
from attnlab.analysis.report import pdf, where_to_look
from attnlab.analysis.report.content import document
from attnlab.analysis.report.document import Document, Lines, PageLink, Section, Table, to_markdown
from attnlab.analysis.report.format import number
from attnlab.analysis.report.latex import verdicts_in_latex
from attnlab.analysis.report.publish import publish, write
from attnlab.analysis.report.report_page import to_html
from attnlab.analysis.report.svg import title
from attnlab.analysis.report.where_to_look import next_commands
from attnlab.analysis.settings import Options
from attnlab.errors import UsageError

BASE = [2.0, 2.1, 1.9, 2.05, 1.95, 2.02]
LONG = "multi_head+a_rather_long_option_of_a_slot+another_one_that_is_longer_still"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A better one, one that nobody can tell apart, and one with a long name."""
    home = tmp_path_factory.mktemp("runs") / "a_b"
    write_arm(home, "multi_head", BASE)
    write_arm(home, "linear", [x - 0.2 - i / 1000 for i, x in enumerate(BASE)])
    write_arm(home, "gqa", [x + (-1) ** i / 100 for i, x in enumerate(BASE)])
    write_arm(home, LONG, [x + 0.1 + i / 999 for i, x in enumerate(BASE)])
    return analyse(home)


@pytest.fixture(scope="module")
def page(report: Report) -> Path:
    folder = report.experiment.folder.report
    write(report, document(report), folder)
    return folder / "report.html"


def test_contents(page: Path) -> None:
    """Every section can be reached, every heading of a column says something, and nothing lies on another machine."""
    text = page.read_text()
    ids = re.findall(r'<section id="([\w-]+)"', text)
    assert len(ids) > 8 and re.findall(r'<li><a href="#([\w-]+)"', text) == ids
    assert re.findall(r"<th[^>]* scope=col>([^<]*)</th>", text) and not re.search(r"scope=col>\s*</th>", text)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert {"declared", "used", "where"} <= {*re.findall(r"scope=col>([^<]*)</th>", text)}


def test_links(page: Path, report: Report) -> None:
    """What a variant leads to is there: its runs, pictures and tables; a name in a link is escaped."""
    targets = [unquote(link) for link in re.findall(r'href="(?!#|data:)([^"]+)"', page.read_text())]
    assert len(targets) > 7 and all((page.parent / target).exists() for target in targets)
    assert {f"../{arm.folder}/" for arm in report.design.arms} <= {*targets}
    assert {"verdicts.csv", "verdicts.tex", "pictures/differences.svg"} <= {*targets}
    shown = Document(
        "t", "", [Section("s", [Table(["a"], [[PageLink("<b>", "x&y/")]], files=(PageLink("CSV", "a.csv"),))])]
    )
    assert '<a href="x&amp;y/">&lt;b&gt;</a>' in to_html(shown) and "[&lt;b>](<x&y/>)" in to_markdown(shown)


def test_no_contents_of_few() -> None:
    """A page of one section has none, and what has a title is shown when asked."""
    text = to_html(Document("t", "", [Section("s", [Lines("a < b", title="more")])]))
    assert "<nav" not in text and "<details><summary>more</summary><pre>a &lt; b</pre></details>" in text


def test_names_whole(page: Path, report: Report) -> None:
    """No name is cut in a picture of curves or differences."""
    for name in ("differences", "learning_curves"):
        drawing = (page.parent / "pictures" / f"{name}.svg").read_text()
        shown = "".join(re.findall(r"<text[^>]*>([^<]*)</text>", drawing))
        assert LONG in shown and "…" not in shown
        _, _, width, _ = map(float, re.findall(r'viewBox="([^"]*)"', drawing)[0].split())
        for x, anchor, text in re.findall(r'<text x="([\d.]+)"[^>]*anchor="(\w+)"[^>]*>([^<]*)<', drawing):
            ends = {"start": (0, 7 * len(text)), "end": (-7 * len(text), 0)}.get(anchor, (0, 0))
            assert float(x) + ends[0] >= 0 and float(x) + ends[1] <= width + 8, text


def test_heading_in_lines() -> None:
    """A heading breaks at blanks and plus signs, and its last line stands where it is put."""
    assert re.findall(r'y="([\d.]+)"[^>]*>([^<]*)<', title(0, 50, "one+two three", 60)) == [
        ("36.0", "one+two"),
        ("50.0", "three"),
    ]
    assert re.findall(r">([^<]*)<", title(0, 9, "short", 60)) == ["short"]


def test_latex(report: Report) -> None:
    """A row for each variant, with the numbers of the report and its names as LaTeX reads them."""
    text = verdicts_in_latex(report, "matched by 100 % & more")
    rows = [line.split(" & ") for line in text.splitlines() if line.endswith(r"\\")]
    assert {len(row) for row in rows} == {6} and [row[0] for row in rows[1:]] == [
        c.arm.label.replace("_", r"\_") for c in report.comparisons
    ]
    better = next(row for row in rows if row[0] == "linear")
    (linear,) = (c for c in report.comparisons if c.arm.label == "linear")
    assert next(row for row in rows if row[0] == "gqa")[2].endswith("}$") and "e-" not in text.replace("one-", "")
    assert better[2] == f"${linear.mean:+.4f}$" and better[-1] == r"better \\"
    assert r"matched by 100 \% \& more" in text and r"\label{tab:a_b}" in text
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == text.count("{table}") // 2 == 1


def test_next_commands(report: Report) -> None:
    """Commands with their reasons; what is settled already is not offered."""
    lines = next_commands(report)
    assert all(line.startswith("# ") for line in lines[::2]) and not any(line.startswith("#") for line in lines[1::2])
    typed = "\n".join(lines[1::2])
    home = report.experiment.folder.path
    for command in (f"tensorboard --logdir {home}", "attnlab maps run=", f"attnlab tune experiment={home}_rates"):
        assert command in typed
    assert f"attnlab report experiment={home} margin=..." in typed
    assert "margin=" not in "".join(next_commands(analyse(home, Options(margin=0.1), counts=False)))


def test_more_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More seeds are offered where they may tell, never as many as there were, and not for what is the same in each."""
    monkeypatch.setattr(where_to_look, "_sweep", lambda _: ["attnlab", "train", "-m"])
    for name, finals in (("a", BASE), ("b", [x + (-1) ** i / 100 - 0.004 for i, x in enumerate(BASE)])):
        home = tmp_path / name
        write_arm(home, "multi_head", BASE)
        write_arm(home, "gqa", finals)
        (offered,) = re.findall(r"seed=range\((\d+)\)", "\n".join(next_commands(analyse(home)))) or [None]
        assert offered is None if name == "a" else int(offered) > len(BASE)


def test_pdf_needs_library(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library one line says what to install, and nothing is written."""
    monkeypatch.setitem(sys.modules, "cairosvg", None)
    with pytest.raises(UsageError, match=r"pdf \(true\) needs cairosvg .*: pip install 'attnlab\[pdf\]'"):
        publish(report, tmp_path / "out", pdf=True)
    assert not (tmp_path / "out").exists()


def test_pdf(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every picture is a PDF, too, with the colours of a file instead of those of a page."""
    seen: list[bytes] = []

    class Library:
        @staticmethod
        def svg2pdf(bytestring: bytes) -> bytes:
            seen.append(bytestring)
            return b"%PDF-1.5"

    monkeypatch.setattr(pdf, "needs_cairosvg", Library)
    write(report, document(report, tmp_path, pdf=True), tmp_path)
    names = {path.stem for path in (tmp_path / "pictures").glob("*.svg")}
    assert names == {path.stem for path in (tmp_path / "pictures").glob("*.pdf")} and len(seen) == len(names)
    assert not any(b"var(" in each for each in seen) and any(b"rgba(31, 127, 163, 0.200)" in each for each in seen)


def test_pdf_drawn(report: Report, tmp_path: Path) -> None:
    """The library itself draws every picture."""
    pytest.importorskip("cairosvg", exc_type=(ImportError, OSError), reason="pip install 'attnlab[pdf]'")
    write(report, document(report, tmp_path, pdf=True), tmp_path)
    assert all(path.read_bytes().startswith(b"%PDF") for path in (tmp_path / "pictures").glob("*.pdf"))


# In a browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1024, 1440])
def test_browser(chromium: Any, page: Path, width: int, scheme: str) -> None:
    """It fits, asks nobody, and a checker of accessibility has no complaint."""
    from axe_playwright_python.sync_playwright import Axe

    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    view, asked, complaints = context.new_page(), [], []
    view.on("request", lambda request: asked.append(request.url))
    view.on("console", lambda message: complaints.append(message.text))
    view.on("pageerror", lambda error: complaints.append(str(error)))
    view.goto(page.as_uri())
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()] and complaints == []
    assert Axe().run(view).response["violations"] == []
    context.close()


@pytest.mark.slow
def test_sorting_and_pointing(chromium: Any, page: Path, report: Report) -> None:
    """A heading sorts by numbers, by mouse or keyboard, and says so; a dot tells its value."""
    view = chromium.new_page(viewport={"width": 1440, "height": 900})
    view.goto(page.as_uri())
    table = view.locator("#verdicts table").first
    heading = table.locator("th[scope=col]", has_text="mean difference")
    means = [number(c.mean, signed=True) for c in report.comparisons]
    column = 1 + [*table.locator("th[scope=col]").all_text_contents()].index(heading.text_content())
    cells = table.locator(f"tbody tr > :nth-child({column})")
    heading.get_by_role("button").focus()
    for key, direction, expected in (
        ("Enter", "ascending", sorted(means, key=float)),
        ("Space", "descending", sorted(means, key=float, reverse=True)),
    ):
        view.keyboard.press(key)
        assert heading.get_attribute("aria-sort") == direction and cells.all_text_contents() == expected
    (better,) = (c for c in report.comparisons if c.arm.label == "linear")
    view.locator(f'#verdicts [data-hint^="mean {better.mean:+.4g}"]').hover()
    assert view.locator("#hint").text_content().startswith(f"mean {better.mean:+.4g}, ")
    view.close()
