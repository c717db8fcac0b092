"""The page: a form for a text, and below it what a model makes of it. Its address holds all that was asked."""

from collections.abc import Iterator
from html import escape
from importlib.resources import files
from urllib.parse import urlencode

import numpy as np

from attnlab.explain.html import page as explained_page
from attnlab.explain.look.reader import Coordinates, Question, TextReader, TextReading
from attnlab.explain.numbers import written
from attnlab.explain.steps import Explanation
from attnlab.inspection.figures import printable
from attnlab.inspection.map_page.page import script, style

DEEPEST = 55  # percent of colour behind a number, so that it can be read


def form_page(reader: TextReader, asked: Question, *, problem: str = "") -> str:
    """The page before a text is read, or with the line that says why it was not."""
    alert = f'<p class="alert" role="alert">{escape(problem)}</p>' if problem else ""
    return _document(reader.name, "".join(_form(reader, asked)) + alert)


def reading_page(reader: TextReader, reading: TextReading) -> str:
    """The page of a text: what comes next, the maps, the scores by coordinate, the steps of the layer."""
    parts = [*_form(reader, reading.question, reading.heads), *_tokens(reading), *_next(reading)]
    if reading.maps.layers:
        parts.append('<section id="page" aria-label="maps of all heads"></section>')
    else:
        parts.append("<h2>Maps</h2><p>No layer has an attention map: none puts out a weighted sum of values.</p>")
    parts += _coordinates(reading)
    asked = reading.question
    parts.append(  # computed when it is opened: a frame in what is folded is not asked for
        f"<details><summary><h2>Step by step, layer {asked.layer}</h2></summary>"
        '<p class="soft">The steps count layers, heads and tokens from 1, as the chapter does.</p>'
        f'<iframe loading="lazy" title="the steps of layer {asked.layer}" src="steps?{escape(_query(asked))}"></iframe>'
        "</details>"
    )
    later = f"map?{urlencode({'text': asked.text})}"
    drawing = script(reading.maps, heading="h2", row=asked.token, later=later) if reading.maps.layers else ""
    return _document(reader.name, "".join(parts), drawing)


def steps_page(explanation: Explanation) -> str:
    """The steps that the chosen layer takes, as `attnlab explain` shows them."""
    return explained_page(explanation.heading, [explanation])


def _document(name: str, body: str, drawing: str = "") -> str:
    own = (files("attnlab.explain.look") / "static" / "look.css").read_text(encoding="utf-8")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(name)} reads a text</title>'
        f'<meta name="viewport" content="width=device-width"><style>{style()}{own}</style></head>'
        f"<body><main>{body}</main>{drawing}</body></html>\n"
    )


def _form(reader: TextReader, asked: Question, heads: int = 1) -> Iterator[str]:
    def menu(name: str, n: int, chosen: int) -> str:
        options = "".join(f"<option{' selected' if i == chosen else ''}>{i}</option>" for i in range(n))
        return f'<label>{name}<select name="{name}">{options}</select></label>'

    layers, most = len(reader.model.layers), reader.model.context
    menus = menu("layer", layers, asked.layer) + menu("head", max(1, heads), asked.head)
    yield f"<h1>{escape(reader.name)} reads a text</h1>"
    yield f'<p class="soft">step {reader.step}, {layers} layers, at most {most} tokens</p>'
    text = f'<textarea name="text" rows="3" required>{escape(asked.text)}</textarea>'
    yield f'<form method="get" action="./"><label>text{text}</label>'
    yield f'<div class="row">{menus}<label>temperature<input name="temperature" type="number" min="0" max="100"'
    yield f' step="any" value="{asked.temperature:g}"></label><button type="submit">Read</button></div></form>'


def _tokens(reading: TextReading) -> Iterator[str]:
    asked = reading.question
    yield '<nav aria-label="the token to follow"><ul class="tokens">'
    for i, token in enumerate(reading.tokens):
        here = ' aria-current="true"' if i == asked.token else ""
        yield f'<li><a href="?{escape(_query(asked._replace(token=i)))}"{here}>{escape(printable(token))}</a></li>'
    yield "</ul></nav>"


def _next(reading: TextReading) -> Iterator[str]:
    """The likeliest tokens after the followed one; after the last, each is a link to the text that goes on so."""
    asked = reading.question
    is_last = asked.token == len(reading.tokens) - 1
    yield f"<h2>What comes after {_quoted(reading, asked.token)}</h2>"
    yield f'{_scrolled("the likeliest next tokens")}<table class="bars">'
    yield f"<caption>Probabilities at temperature {asked.temperature:g}</caption><thead><tr>"
    yield "".join(f'<th scope="col">{head}</th>' for head in ("token", "probability", "beside the largest"))
    yield "</tr></thead><tbody>"
    largest = reading.candidates[0].probability
    for label, text, probability in reading.candidates:
        name = escape(printable(label)) or "(empty)"
        if is_last:
            longer = Question(asked.text + text, -1, asked.layer, asked.head, asked.temperature)
            name = f'<a href="?{escape(_query(longer))}">{name}</a>'
        bar = f'<i style="width:{100 * probability / largest:.1f}%"></i>'
        yield f'<tr><th scope="row">{name}</th><td>{probability:.4f}</td><td>{bar}</td></tr>'
    yield "</tbody></table></div>"


def _coordinates(reading: TextReading) -> Iterator[str]:
    asked, c = reading.question, reading.coordinates
    yield f"<h2>Query times key, layer {asked.layer}, head {asked.head}</h2>"
    if c is None:
        yield "<p>This layer has no scores that are one dot product of a query with a key; its steps are below.</p>"
        return
    rows = reading.rows
    exp = _exponentials(c)
    columns = ["q·k", "score", *(["exp"] if exp is not None else []), "weight", *(f"q k {i}" for i in range(len(c.q)))]
    left = f", of the {len(c.k)} tokens the {len(rows)} it reads most" if len(rows) < len(c.k) else ""
    yield f"<p>How {_quoted(reading, asked.token)} scores each token{left}: all products add up to q·k, "
    yield "from which scale, position and mask make the score"
    yield (
        "; exp is taken of it less the largest, and divided by its sum is the weight.</p>"
        if exp is not None
        else ".</p>"
    )
    yield f'{_scrolled("products of query and key by coordinate")}<table><thead><tr><th scope="col">token</th>'
    yield "".join(f'<th scope="col">{column}</th>' for column in columns) + "</tr></thead><tbody>"
    blank = "<td></td>" * (len(columns) - len(c.q))
    query = "".join(_cell(x, float(np.abs(c.q).max())) for x in c.q.tolist())
    yield f'<tr><th scope="row">the query itself</th>{blank}{query}</tr>'
    largest = float(np.abs(c.products).max())
    for j in rows:
        name = f'<tr><th scope="row">{escape(printable(reading.tokens[j]))} ({j})</th>'
        score = written(float(c.scores[j])) if np.isfinite(c.scores[j]) else "-inf"
        yield f"{name}<td>{written(float(c.sums[j]))}</td><td>{score}</td>"
        yield "" if exp is None else f"<td>{written(float(exp[j]))}</td>"
        yield (
            _cell(float(c.weights[j]), 1.0, "w") + "".join(_cell(x, largest) for x in c.products[j].tolist()) + "</tr>"
        )
    if exp is not None:
        rest = "<td></td>" * len(c.q)
        yield f'<tr class="total"><th scope="row">sum of all</th><td></td><td></td><td>{written(float(exp.sum()))}</td>'
        yield f"<td>{written(float(c.weights.sum()))}</td>{rest}</tr>"
    yield "</tbody></table></div>"


def _exponentials(c: Coordinates) -> np.ndarray | None:
    """exp(score - largest), where the weights are the softmax of the scores and nothing else."""
    if not np.isfinite(c.scores).any():
        return None
    exp = np.exp(c.scores - c.scores.max())
    return exp if np.allclose(exp / exp.sum(), c.weights, atol=1e-4) else None


def _cell(value: float, largest: float, tone: str = "") -> str:
    share = DEEPEST * min(1.0, abs(value) / (largest or 1.0))
    return f'<td class="{tone or ("m" if value < 0 else "p")}" style="--s:{share:.0f}%">{written(value)}</td>'


def _scrolled(label: str) -> str:
    """The beginning of a part that may be wider than the page; a keyboard scrolls it, too."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">'


def _quoted(reading: TextReading, token: int) -> str:
    return f"“{escape(printable(reading.tokens[token]))}” ({token})"


def _query(asked: Question) -> str:
    return urlencode({**asked._asdict(), "temperature": f"{asked.temperature:g}"})
