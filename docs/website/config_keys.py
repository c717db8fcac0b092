"""The page of every key of the config, from the YAML files and their comments."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from pydoc import locate
from typing import NamedTuple

import yaml
from docs.website.staged import ROOT

from attnlab.options import options_of

CONFIGS = ROOT / "configs"
# The groups in the order in which a reader needs them; what each is, in a sentence.
GROUPS = {
    "model": "The sizes of the model, and what stands around its attention: `model=small`.",
    "attention": "The variant, `attention=gqa`: the keys of each stand on its page. The folders are its slots, "
    "`attention/mask=window`.",
    "position": "Where a token stands, `position=alibi`; some positions act on the embeddings, most inside attention.",
    "data": "What is learned: a text, or a synthetic task, `data=mqar`.",
    "tokenizer": "How a text becomes numbers, `tokenizer=char`.",
    "optimizer": "How weights are changed, `optimizer=muon`.",
    "trainer": "How long, on what and in which arithmetic, `trainer=gpu`.",
    "logger": "Who is told, besides the run's own files: any number, `logger=[tensorboard,wandb]`.",
    "callbacks": "What else happens while training: any number, `callbacks=early_stopping`.",
    "experiment": "Frozen runs, `+experiment=shakespeare_char`.",
    "sweep": "Designs, `-m +sweep=recent_parts`.",
    "card": "The small tasks of the card, `+card=mqar`; `cell.yaml` is what they share.",
}
WHOLE = ("experiment", "sweep", "card")  # whose files are shown as they are: they set keys of other groups
ELSEWHERE = {"model": "what the task needs of the model", "sample": "a task writes no samples"}  # set by files of tasks
HIDDEN = ("defaults", "hydra", "_target_", "_partial_")


class Key(NamedTuple):
    """One key of a file: its dotted name, its value as it is written, and what the comments beside and above it say."""

    name: str
    value: str
    comment: str


def about(text: str) -> str:
    """What a file says of itself: the comment that it begins with."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.lstrip("# ").strip())
    return " ".join(lines)


def keys(text: str) -> list[Key]:
    """The keys of a YAML file in their order, each with its comment; without one, with what its class says of it."""
    root = yaml.compose(text)
    return [*_keys(root, "", text.splitlines())] if isinstance(root, yaml.MappingNode) else []


def _keys(node: yaml.MappingNode, above: str, lines: list[str]) -> Iterator[Key]:
    targets = [value.value for key, value in node.value if key.value == "_target_"]
    declared = options_of(locate(targets[0])) or {} if targets else {}
    for key, value in node.value:
        name = f"{above}{key.value}"
        if name in HIDDEN[:2] or key.value in HIDDEN:
            continue
        line = key.start_mark.line
        comment = _comment(lines[line], value, line) or _comment_above(lines, line)
        if not comment and key.value in declared:
            comment = declared[key.value].doc
        block = isinstance(value, yaml.MappingNode) and value.value and not value.flow_style
        if not block:
            shown = lines[value.start_mark.line][value.start_mark.column :]
            yield Key(name, _without_comment(shown, value, line), comment)
            continue
        if comment:
            yield Key(name, "", comment)
        yield from _keys(value, f"{name}.", lines)


def _comment(line: str, value: yaml.Node, number: int) -> str:
    """The comment behind a value, or behind the key of a block."""
    inline = value.end_mark.line == number
    match = re.search(r"(?:^|\s)#\s*(.*)", line[value.end_mark.column if inline else 0 :])
    return match[1].strip() if match else ""


def _comment_above(lines: list[str], number: int) -> str:
    """The comment in the lines right above a key, but for those that speak of the whole file."""
    above = []
    for line in reversed(lines[:number]):
        if not line.strip().startswith("#") or line.startswith("# @package"):
            break
        above.insert(0, line.strip().lstrip("# "))
    return "" if len(above) == number else " ".join(above)


def _without_comment(shown: str, value: yaml.Node, number: int) -> str:
    if value.end_mark.line != value.start_mark.line:
        return shown.strip()
    return shown[: value.end_mark.column - value.start_mark.column].strip()


def is_named_variant(file: Path) -> bool:
    """Whether a file is a variant, which has a page of its own."""
    return file.parent == CONFIGS / "attention"


def is_remark(line: str) -> bool:
    return line.startswith("#")


def cell(text: str) -> str:
    """A text in a table of Markdown."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def table(rows: list[Key], below: str = "") -> Iterator[str]:
    """The keys of a file as a table; `below` is what their names begin with on the command line."""
    yield from ("", "| key | default | what it is |", "|---|---|---|")
    for key in rows:
        value = f"`{cell(key.value)}`" if key.value else ""
        yield f"| `{below}{key.name}` | {value} | {cell(key.comment)} |"


def heading(file: Path, group: str) -> str:
    """How an option is chosen."""
    path = file.relative_to(CONFIGS).with_suffix("").as_posix()
    option = path.removeprefix(f"{group}/")
    slot, _, name = option.rpartition("/")
    plus = "+" if group in ("experiment", "sweep", "card") else ""
    return f"`{plus}{group}{f'/{slot}' * bool(slot)}={name}`"


def page() -> str:
    """The page."""
    main = (CONFIGS / "train.yaml").read_text(encoding="utf-8")
    lines = [
        "# Every key of the config",
        "",
        "As the files of `configs/` hold them, with the comments that stand beside them there. Each can be typed after",
        "`python train.py`, such as `trainer.max_steps=1000`; a wrong one is refused with the nearest right one.",
        "`python train.py --cfg job` prints the config that a command gives, `python train.py --help` the groups.",
        "",
        "## train",
        "",
        about(main),
        *table(keys(main)),
    ]
    for group, sentence in GROUPS.items():
        lines += ["", f"## {group}", "", sentence]
        files = [file for file in sorted((CONFIGS / group).rglob("*.yaml")) if not is_named_variant(file)]
        known: dict[str, str] = {}  # what a file of the group says of a key, for those that say nothing
        for file in reversed(files):
            known |= {key.name: key.comment for key in keys(file.read_text(encoding="utf-8")) if key.comment}
        for file in files:
            text = file.read_text(encoding="utf-8")
            lines += ["", f"### {heading(file, group)}", "", about(text)]
            if group in WHOLE:
                lines += ["", "```yaml", "\n".join(itertools.dropwhile(is_remark, text.splitlines())), "```"]
                continue
            rows = [
                key._replace(comment=key.comment or known.get(key.name, ELSEWHERE.get(key.name, "")))
                for key in keys(text)
            ]
            below = f"{group}." if file.parent.name == group else f"{group}.{file.parent.name}."
            lines += table(rows, "" if "@package _global_" in text else below) if rows else []
    return "\n".join([*lines, ""])
