"""The worked example as tables in a terminal, as wide as it is."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from attnlab.explain.compare import Pairing
from attnlab.explain.numbers import MOST_COLUMNS, MOST_TOKENS, letter, written
from attnlab.explain.stations import StationExample
from attnlab.explain.step_parts import LEARNED
from attnlab.explain.steps import Explanation, Step
from attnlab.inspection.figures import printable

HIDDEN, DROPPED = "·", "\N{MULTIPLICATION SIGN}"
FOLLOWED, NEGATIVE, LARGEST, SOFT = "bold", "blue", "red", "dim"
LEGEND = (
    ("the followed token", FOLLOWED),
    ("below 0", NEGATIVE),
    ("largest weight of a row", LARGEST),
    (f"{HIDDEN} may not be read", SOFT),
)
WIDEST_NAME = 16  # of a token, in columns of the terminal
GAP = 2  # between columns
BYTES = 4  # of a number
MOST_TERMS = 3  # of a vector, where a weight, the vector and their product stand in one row


def show(
    explanation: Explanation,
    console: Console,
    pairing: Pairing | None = None,
    *,
    only: bool = False,
    parts: Sequence[str] = (),
) -> None:
    """Print every step for all tokens, or for the followed one alone if `only`, or if all would fill no screen.

    `parts` are what to print, of PARTS; all, and what stands above them, if none is named.
    Beside another example, a step that is the same in both is a line; one that differs is shown as both take it.
    """
    e, name = explanation, printable(explanation.tokens[explanation.focus])
    console.rule(Text(e.heading, style="bold"))
    for text in () if parts else e.about[:2]:
        console.print(Text(text))
    for note in () if parts else e.notes:
        console.print(Text(f"note: {note}", style=SOFT))
    alone = only or len(e.tokens) > MOST_TOKENS
    where = f", token {e.focus + 1} of {len(e.tokens)}{', alone' if alone else ''} (counted from 1, as heads are)"
    console.print(Text.assemble("following ", (name, FOLLOWED), where))
    console.print(Text("; ").join(Text(*each) for each in LEGEND))
    if pairing is not None:
        for text in (pairing.settings, pairing.numbers, pairing.summary):
            console.print(Text(text))
    elif not parts or LEARNED in parts:
        _matrices(e, console)
    if pairing is not None:
        for owner, step in pairing.steps:
            if not parts or step.part in parts:
                _title([step], console)
                _beside(step, owner, pairing, console, alone=alone)
        return
    for steps in _groups([step for step in e.steps if not parts or step.part in parts], joined=alone):
        _title(steps, console)
        _numbers(steps, e, console, alone=alone)


def _title(steps: Sequence[Step], console: Console) -> None:
    """An empty line, and what each step is."""
    console.print()
    for step in steps:
        console.print(Text.assemble((step.title, "bold"), "  ", (step.text, SOFT)))


def _groups(steps: Sequence[Step], *, joined: bool) -> Iterator[list[Step]]:
    """Each step, or together those of pairs that follow each other, in which one token's row is a column of a table."""
    for heads, run in groupby(steps, key=lambda step: len(step.values) if step.shape == "pairs" and joined else 0):
        if heads:
            yield list(run)
        else:
            yield from ([step] for step in run)


def _beside(step: Step, e: Explanation, pairing: Pairing, console: Console, *, alone: bool) -> None:
    """What the comparison says of a step, and its numbers in both unless they are the same."""
    other = pairing.other
    if e is other:
        console.print(Text(f"only in {other.name}", style="italic"))
        _numbers([step], other, console, alone=alone)
        return
    partner = pairing.partner(step.key)
    repeated = partner is not None and _before(step, e) and _before(partner, other)
    console.print(Text(f"{pairing.verdict(step.key)}{f': {repeated}, in both' if repeated else ''}", style="italic"))
    if partner is None:
        _numbers([step], e, console, alone=alone)
    elif not repeated and not pairing.recut(step.key) and step.part != "dropout" and not pairing.same(step.key):
        _numbers([step], e, console, alone=alone, caption=f"in {e.name}")
        _numbers([partner], other, console, alone=alone, caption=f"in {other.name}")


def _matrices(e: Explanation, console: Console) -> None:
    """Every learned matrix: its numbers where they can be read, else its shape."""
    if not e.matrices:
        return
    count = sum(numbers.size for numbers in e.matrices.values())
    console.print()
    text = f"{count} in all; matrices are (in, out), as in q = x W_q."
    console.print(Text.assemble(("Learned numbers", "bold"), "  ", (text, SOFT)))
    for name, numbers in e.matrices.items():
        rows = numbers[None] if numbers.ndim == 1 else numbers
        label = letter(name) if letter(name) == name else f"{letter(name)} = {name}"
        title = f"{label} ({' x '.join(map(str, numbers.shape)) or '1'})"
        if rows.ndim == 2 and max(rows.shape) <= MOST_COLUMNS:
            cells = [[_cell(float(number)) for number in row] for row in rows]
            _print_table(console, title, [""] * len(rows), None, cells)
        else:
            console.print(Text(f"  {title}"))


def _numbers(steps: Sequence[Step], e: Explanation, console: Console, *, alone: bool, caption: str = "") -> None:
    """The numbers of a step, or of several that share a table."""
    step = steps[0]
    if len(steps) > 1:
        for head in range(len(step.values)):
            _one_token(steps, e, head, console)
        return
    previous = _before(step, e)
    if previous is not None and not caption:
        console.print(Text(previous, style="italic"))
        return
    names = [printable(token) for token in e.tokens]
    heads = step.values.shape[1 if step.shape == "state" else 0]
    for head in range(heads):
        title = ", ".join(filter(None, [caption, f"head {head + 1}" if heads > 1 else ""]))
        if step.shape == "state":
            rows = step.values[e.focus, head]
            cells = [[_cell(float(number)) for number in row] for row in rows[:MOST_COLUMNS]]
            labels = [f"row {i + 1}" for i in range(len(cells))]
            _print_table(console, ", ".join(filter(None, [title, f"after {names[e.focus]}"])), labels, None, cells)
            continue
        chosen = [e.focus] if alone else list(range(len(names)))
        cells = [_row(step, head, i, e) for i in chosen]
        columns = names if step.shape == "pairs" else None
        if columns is not None and alone:
            read = e.most_read(e.focus, head, MOST_TOKENS)
            columns, cells = [names[j] for j in read], [[row[j] for j in read] for row in cells]
        _print_table(console, title, [names[i] for i in chosen], columns, cells, None if alone else e.focus)


def _before(step: Step, e: Explanation) -> str | None:
    """Where the numbers are those of the step before, or its heads side by side: that they are."""
    i = e.steps.index(step) if any(step is other for other in e.steps) else 0
    last = e.steps[i - 1] if i else None
    if last is None or last.shape != "vectors" or step.shape != "vectors" or len(step.values) > 1:
        return None
    if not np.array_equal(step.values[0], np.concatenate(list(last.values), axis=-1)):
        return None
    return "the numbers of the step before" + (", head beside head" if len(last.values) > 1 else "")


def _row(step: Step, head: int, token: int, e: Explanation) -> list[Text]:
    """One token's numbers: the first of a vector, or one for each token that is looked at."""
    values, hidden = step.values[head, token], None if step.hidden is None else step.hidden[head, token]
    weights = step.shape == "pairs" and step.part in ("weights", "dropout")
    top = float(values.max()) if weights else np.inf
    style = FOLLOWED if token == e.focus else ""
    cells = []
    for j, number in enumerate(values):
        if hidden is not None and hidden[j]:
            cells.append(Text(HIDDEN, style=SOFT))
        elif step.part == "dropout" and number == 0:
            cells.append(Text(DROPPED, style=SOFT))
        else:
            cells.append(_cell(float(number), f"{style} {LARGEST}" if weights and number == top > 0 else style))
    return cells


def _cell(number: float, style: str = "") -> Text:
    return Text(written(number), style=f"{style} {NEGATIVE}" if number < 0 else style)


def _one_token(steps: Sequence[Step], e: Explanation, head: int, console: Console) -> None:
    """How one token looks at each of the others: a column for each step, then the values and what is read of them."""
    read = e.most_read(e.focus, head, MOST_TOKENS)
    names = [printable(e.tokens[j]) for j in read]
    rows = [_row(step, head, e.focus, e) for step in steps]
    cells = [[row[j] for row in rows] for j in read]
    title = f"head {head + 1}" if len(steps[0].values) > 1 else ""
    if len(read) < len(e.tokens):
        which = "that it reads most" if len(read) == MOST_TOKENS else "that it may read"
        title = f"{title}{': ' if title else ''}the {len(read)} of {len(e.tokens)} tokens {which}"
    _print_table(console, title, names, [step.title for step in steps], cells)
    sums, context = e.values_read(e.focus, head), e.step("context")
    if sums is None or context is None or all(step is not e.map for step in steps):
        return
    values, terms = sums
    most = min(MOST_TERMS, values.shape[1])
    shown = f", the first {most} of {values.shape[1]} numbers" if most < values.shape[1] else ""
    columns = ["weight", *[f"v[{i + 1}]" for i in range(most)], *[f"weight x v[{i + 1}]" for i in range(most)]]
    weights = next(row for row, step in zip(rows, steps, strict=True) if step is e.map)
    hidden = [weights[j].plain == HIDDEN for j in range(len(weights))]
    cells = [
        [
            weights[j],
            *map(_cell, values[j, :most].tolist()),
            *([weights[j]] * most if hidden[j] else map(_cell, terms[j, :most].tolist())),
        ]
        for j in read
    ]
    total = [_cell(float(number), FOLLOWED) for number in context.values[head, e.focus, :most]]
    cells.append([*[Text("")] * (1 + most), *total])
    _print_table(console, f"each weight times its value, added up{shown}", [*names, "sum of all"], columns, cells)


def _print_table(
    console: Console,
    title: str,
    rows: Sequence[str],
    columns: Sequence[str] | None,
    cells: Sequence[Sequence[Text]],
    focus: int | None = None,
) -> None:
    """Rows of numbers, in as many tables as the width asks for; of vectors, which have no names for their columns, as
    many numbers as fit."""
    labels = [name if cell_len(name) <= WIDEST_NAME else f"{set_cell_size(name, WIDEST_NAME - 1)}…" for name in rows]
    width = max(map(cell_len, labels))
    blocks = list(_blocks(cells, columns, console.width - width - 2))
    if columns is None and len(blocks) > 1:
        title = ": ".join(filter(None, [title, f"the first {len(blocks[0])} of {len(cells[0])} numbers"]))
        blocks = blocks[:1]
    if title:
        console.print(Text(f"  {title}"))
    for block in blocks:
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), show_header=columns is not None)
        table.add_column("", min_width=width, no_wrap=True)
        for j in block:
            heading = Text("") if columns is None else Text(columns[j])
            table.add_column(heading, justify="right", max_width=None if columns is None else _width(cells, columns, j))
        for i, name in enumerate(labels):
            table.add_row(Text(name, style=FOLLOWED if i == focus else ""), *[cells[i][j] for j in block])
        console.print(Padding(table, (0, 0, 0, 2), expand=False))


def _blocks(cells: Sequence[Sequence[Text]], columns: Sequence[str] | None, width: int) -> Iterator[list[int]]:
    """The columns, cut into runs that fit a width side by side."""
    block, room = list[int](), width
    for j in range(len(cells[0])):
        needed = GAP + _width(cells, columns, j)
        if block and needed > room:
            yield block
            block, room = [], width
        block.append(j)
        room -= needed
    yield block


def _width(cells: Sequence[Sequence[Text]], columns: Sequence[str] | None, j: int) -> int:
    """Of a column: its widest number or word of its heading."""
    heading = [] if columns is None else columns[j].split() or [" "]
    return max([*(row[j].cell_len for row in cells), *map(cell_len, heading)])


PAIRS = (
    "Each pair below is built in the smallest sizes that both accept and draws its weights anew, so that a variant's "
    "numbers change from one pair to the next; within a pair all that can be shared is."
)


def show_path(examples: Iterable[StationExample], console: Console) -> None:
    """Print each station of the path: its one change, what is the same and what is not, and one token's weights."""
    console.print(Text(PAIRS, style=SOFT))
    console.print()
    for number, example in enumerate(examples, 1):
        station, e, pairing = example.station, example.example, example.pairing
        beside = "" if pairing is None else f", beside {pairing.other.name}"
        console.print(Text(f"{number}. {e.name}{beside}", style="bold"))
        console.print(Text(station.change))
        if pairing is not None:
            for text in (pairing.summary, pairing.numbers):
                console.print(Text(text, style=SOFT))
        _costs(example, console)
        _weights([e] if pairing is None else [pairing.other, e], console)
        console.print(Text(station.command, style="italic"), soft_wrap=True)  # to be copied
        console.print()


def _costs(example: StationExample, console: Console) -> None:
    """How many numbers are learned, and how many decoding keeps, before and now."""
    learned = " -> ".join(str(cost.params) for cost in reversed(example.costs))
    stored = " -> ".join(str(cost.state_bytes // BYTES) for cost in reversed(example.costs))
    n = len(example.example.tokens)
    console.print(Text(f"numbers learned: {learned}; stored to go on after {n} tokens: {stored}", style=SOFT))


def _weights(examples: Sequence[Explanation], console: Console) -> None:
    """The weights of the followed token in the first head of each, one below the other."""
    shown, e = [(each, each.map) for each in examples if each.map is not None], examples[0]
    if not shown:
        return
    read = e.most_read(e.focus, 0, MOST_TOKENS)
    names = [printable(token) for token in e.tokens]
    rows = [_row(step, 0, each.focus, each) for each, step in shown]
    which = ", first head" if any(len(step.values) > 1 for _, step in shown) else ""
    title, columns = f"what {names[e.focus]} reads{which}", [names[j] for j in read]
    _print_table(console, title, [each.name for each, _ in shown], columns, [[row[j] for j in read] for row in rows])


def show_trained(pairing: Pairing, command: str, console: Console) -> None:
    """Print the end of the path: a layer that was trained, and what it has beside its nearest relative on the path."""
    e, other = pairing.one, pairing.other
    console.print(Text(f"Your layer: {e.heading}, beside {other.name}", style="bold"))
    more = [
        step.title for owner, step in pairing.steps if owner is e and not step.aside and other.step(step.key) is None
    ]
    less = [step.title for step in pairing.missing if not step.aside]
    learned = " -> ".join(str(sum(numbers.size for numbers in each.matrices.values())) for each in (other, e))
    for text in (
        f"the steps are those of {other.name}",
        *([f"besides: {', '.join(more)}"] if more else []),
        *([f"without: {', '.join(less)}"] if less else []),
        pairing.settings,
        f"numbers learned: {learned}",
        *e.notes,
    ):
        console.print(Text(text, style=SOFT))
    _weights([e], console)
    console.print(Text(command, style="italic"), soft_wrap=True)
