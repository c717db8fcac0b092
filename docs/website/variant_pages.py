"""A page for each variant, computed from its config, its classes and its worked example."""

from collections.abc import Iterator, Mapping
from functools import cache
from html import escape
from pathlib import Path
from pydoc import locate
from typing import Any

import numpy as np
import yaml
from docs.card import rows_of
from docs.ledger import RECORDS
from docs.variants import LENGTHS, Row, built, row, rules, short
from docs.website.config_keys import CONFIGS, cell
from docs.website.source_lines import code_of, methods_of, place
from docs.website.staged import ROOT
from docs.website.used_by import types_of
from docs.worked_examples import written as written

from attnlab.attention.base import Attention
from attnlab.attention.softmax import SoftmaxAttention
from attnlab.errors import shown
from attnlab.explain.explanations import variant
from attnlab.explain.steps import Step
from attnlab.options import options_of
from attnlab.sweep.claim import Claim, read_claims
from attnlab.sweep.ledger import medians, verdict_on
from attnlab.sweep.replication import read_record

USED_BY: Mapping[str, Mapping[str, list[str]]] = yaml.safe_load(
    (Path(__file__).parent / "used_by.yaml").read_text(encoding="utf-8")
)
MAPS = {
    "probability": "weights that sum to one in each row",
    "sub_probability": "weights that sum to at most one in each row",
    "nonnegative": "weights of at least zero, with any sum",
    "signed": "weights of both signs",
    "none": "none: it is not linear in its values",
}
GROWTHS = {"linear": "grows with each token", "window": "grows up to a window", "constant": "has a fixed size"}
# Pages whose tables have a row for each variant that was measured, and what these say.
TABLES = {
    "decoding": "Decoding, measured",
    "ablations": "In an ablation",
    "oracles": "What it was compared with",
}
CELL, MARGIN = 52, 66  # pixels of a map's cells, and of the names beside them
SOURCES = 3  # classes that are printed


def page(name: str) -> str:
    """What there is to say of a variant."""
    file = CONFIGS / "attention" / f"{name}.yaml"
    (config, layers), it = built(name), row(file)
    lines = [f"# {name}", "", it.sentence, "", f"Rule: {it.formula}", ""]
    lines += ["```", f"python train.py attention={name}", f"attnlab explain attention={name}", "```", ""]
    lines += [*facts(it, layers), *differences(it), *drawn_map(name), *code(file, layers), *options(file, config)]
    return "\n".join([*lines, *cost(it), *card(name), *tested_claims(name), *measured(name), ""])


def facts(it: Row, layers: list[Attention]) -> Iterator[str]:
    """Its family, map, state, paper and who uses it."""
    maps = [MAPS[kind] for kind in dict.fromkeys(layer.traits.map_kind for layer in layers)]
    growths = [GROWTHS[growth] for growth in dict.fromkeys(layer.traits.growth for layer in layers)]
    yield from ("| | |", "|---|---|", f"| family | {it.family} |", f"| map | {'; '.join(maps)} |")
    yield f"| state while decoding | {'; '.join(growths)} |"
    yield f"| paper | {it.papers} |"
    if others := USED_BY.get(it.name, {}).get("others"):
        yield f"| used by | {', '.join(others)} |"
    if types := types_of(it.name):
        names = ", ".join(f"`{name}`" for name in types)
        yield f"| layers of [imported types](../interchange.md) | {names} |"
    yield ""


def differences(it: Row) -> list[str]:
    return [f"Where it differs from its source: {' '.join(it.deviations)}", ""] if it.deviations else []


def drawn_map(name: str) -> Iterator[str]:
    """The map of the worked example, as its code computes it."""
    example = variant(name)
    yield from ("## Its map", "")
    link = f'<a href="explained/{name}.html">Every step of it</a>'
    if example.map is None:
        yield from (f"It has no map. {link}, for six tokens.", "")
        return
    yield (
        'Computed on the sentence "Your journey starts with one step", with weights that are drawn and not trained: a '
        f"row for each token that reads, a column for each one that is read. {link}."
    )
    yield from ("", '<div class="maps">')
    yield from (svg(example.map, head, example.tokens) for head in range(len(example.map.values)))
    yield from ("</div>", "", *example.notes, "")


def svg(step: Step, head: int, tokens: list[str]) -> str:
    """One head's map as a picture whose numbers can be read and copied."""
    size = MARGIN + CELL * len(tokens)
    title = f"Map of head {head}" if len(step.values) > 1 else "Map"
    parts = [f'<svg role="img" aria-label="{title}" viewBox="0 0 {size} {size}" width="{size}">']
    for i, token in enumerate(tokens):
        middle = MARGIN + CELL * (i + 0.5)
        parts.append(f'<text class="row" x="{MARGIN - 6}" y="{middle + 4}">{escape(token)}</text>')
        parts.append(f'<text x="{middle}" y="{MARGIN - 8}">{escape(token)}</text>')
    largest = float(np.abs(np.nan_to_num(step.values)).max()) or 1.0
    for i, j in np.ndindex(step.values.shape[1:]):
        value, x, y = float(step.values[head, i, j]), MARGIN + CELL * j, MARGIN + CELL * i
        if step.hidden is not None and step.hidden[head, i, j]:
            parts.append(f'<rect class="never" x="{x}" y="{y}" width="{CELL - 1}" height="{CELL - 1}"/>')
            continue
        sign, strength = "minus" if value < 0 else "plus", 0.6 * abs(value) / largest
        parts.append(
            f'<rect class="{sign}" x="{x}" y="{y}" width="{CELL - 1}" height="{CELL - 1}" '
            f'style="fill-opacity:{strength:.2f}"/>'
            f'<text x="{x + CELL / 2}" y="{y + CELL / 2 + 4}">{value:.2f}</text>'
        )
    return "".join([*parts, "</svg>"])


def code(file: Path, layers: list[Attention]) -> Iterator[str]:
    """The YAML that it is, and the lines that state its rule."""
    yield from ("## Its code", "", "The YAML:", "", "```yaml", file.read_text(encoding="utf-8").rstrip(), "```", "")
    kinds = [*dict.fromkeys(rules(layers))]
    if len(kinds) > SOURCES:
        yield from (f"Of its {len(kinds)} parts, the first {SOURCES}:", "")
    for kind in kinds[:SOURCES]:
        yield from (f"`{place(kind)}`:", "", "```python", code_of(kind), "```", "")
        plain = issubclass(kind, SoftmaxAttention) and kind.explicit_weights is SoftmaxAttention.explicit_weights
        if plain and kind.scores is SoftmaxAttention.scores:
            yield from (f"Scores and weights are those of every softmax attention, `{place(SoftmaxAttention)}`:", "")
            yield from ("```python", methods_of(SoftmaxAttention, ("scores", "explicit_weights")), "```", "")


def options(file: Path, config: Any) -> Iterator[str]:
    """Everything that can be set of it, with a sentence each."""
    yield from ("## Its options", "")
    kinds = config.attention.get("kinds")
    if kinds:
        yield f"Its kinds, in the order of `pattern`, are {', '.join(f'`{name}`' for name in kinds)}."
        used = [entry.partition("@")[0] for entry in defaults(file) if "@" in entry]
        links = ", ".join(f"[{name}]({name}.md)" for name in dict.fromkeys(used))
        yield from (f"They begin as {links}, whose options stand below `attention.kinds.NAME`.", "")
    yield from ("| key | here | may hold | what it is |", "|---|---|---|---|")
    own = {key: value for key, value in config.attention.items() if key != "kinds"}
    for key, value, allowed, doc in settings(own, "attention"):
        yield f"| `{key}` | {cell(value)} | {cell(allowed)} | {cell(doc)} |"
    yield ""


def defaults(file: Path) -> list[str]:
    """The entries of a YAML's defaults that are names."""
    return [
        entry
        for entry in yaml.safe_load(file.read_text(encoding="utf-8")).get("defaults", [])
        if isinstance(entry, str)
    ]


def settings(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, str, str, str]]:
    """(key, value, what it may hold, sentence) of everything below a class."""
    declared = options_of(locate(str(node["_target_"]))) or {} if "_target_" in node else {}
    for key, value in node.items():
        if key in ("_target_", "_partial_"):
            continue
        about, name = declared.get(key), f"{path}.{key}"
        doc = about.doc if about is not None else ""
        if not isinstance(value, Mapping):
            null = f" ({about.null})" if about is not None and about.null and value is None else ""
            yield name, f"`{shown(value)}`{null}", about.allowed if about is not None else "", doc
            continue
        if "_target_" in value:
            yield name, f"`{str(value['_target_']).rpartition('.')[2]}`", "a class", doc
        yield from settings(value, name)


def cost(it: Row) -> Iterator[str]:
    """What a layer costs."""
    yield from ("## What it costs", "")
    yield from (f"| per layer, width 128 | {LENGTHS[0]} tokens | {LENGTHS[1]} tokens |", "|---|---:|---:|")
    flops = " | ".join(short(each.forward_flops / it.layers) for each in it.costs)
    held = " | ".join(short(each.state_bytes / it.layers) for each in it.costs)
    yield from (f"| FLOPs of a forward pass | {flops} |", f"| bytes kept while decoding | {held} |", "")
    yield from ("[Decoding](../decoding.md) has the milliseconds of one more token.", "")


def card(name: str) -> Iterator[str]:
    """What it can do: what is recorded of it, and how to find out the rest."""
    yield from ("## What it can do", "", "```", f"attnlab card attention={name}", "```", "")
    yield "trains it on a text and twelve small tasks beside three controls ([tasks](../tasks.md))."
    recorded = [*rows_of(name)]
    yield from recorded or ["No result of it is recorded: not run."]


@cache
def ledger() -> list[tuple[Claim, dict[str, Any]]]:
    """The claims of the ledger, and what is recorded of them."""
    return [(claim, read_record(RECORDS / f"{claim.name}.json")) for claim in read_claims()]


def tested_claims(name: str) -> Iterator[str]:
    """What the ledger says of it, with the day and the commit where it was run."""
    about = [(claim, record) for claim, record in ledger() if name in attentions(claim)]
    if about:
        yield from ("", "## In the ledger", "")
    for claim, record in about:
        when = f" ({record['date']}, commit {record['commits'][0][:8]})" if "date" in record else ""
        yield f"- {claim.claim} [{verdict_on(claim, record)}](../ledger.md#{claim.name}){when}"
        if record.get("hash") == claim.hash:
            yield f"  Medians over the seeds, with the least and the largest: {'; '.join(results(claim, record))}."


def results(claim: Claim, record: Mapping[str, Any]) -> Iterator[str]:
    """What each arm of a claim came to."""
    for arm, *numbers, lost in medians(claim, record):
        of_each = ", ".join(f"{measure} {number}" for measure, number in zip(claim.measures, numbers, strict=True))
        yield f"{arm} {of_each}{f', {lost} runs lost' if lost != '0' else ''}"


def measured(name: str) -> Iterator[str]:
    """The rows about it in the tables of other pages."""
    for page, title in TABLES.items():
        for head, rows in table_rows((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"), name):
            yield from ("", f"## {title}", "", f"From [{page}](../{page}.md).", "", *head, *rows)


def table_rows(text: str, name: str) -> Iterator[tuple[list[str], list[str]]]:
    """(the two lines of its head, the rows that begin with this name) of every table that has some."""
    head: list[str] = []
    rows: list[str] = []
    before = ""
    for line in [*text.splitlines(), ""]:
        if line.startswith("|") and set(line) <= set("|-: "):
            head = [before, line]
        elif head and not line.startswith("|"):
            if rows:
                yield head, rows
            head, rows = [], []
        elif head and (line.split("|")[1].strip(" `*").partition(",")[0] == name or f"`attention={name}`" in line):
            rows.append(line)
        before = line


def attentions(claim: Claim) -> set[str]:
    """The variants that a claim compares."""
    shared = claim.recipe["settings"].get("attention", "multi_head")
    return {str(settings.get("attention", shared)) for settings in claim.recipe["arms"].values()}
