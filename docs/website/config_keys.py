"""The page of every key of the config, from the YAML files and their comments."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml
from docs.website.staged import ROOT

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
    """The keys of a YAML file in their order, each with its comment."""
    root = yaml.compose(text)
    return [*_keys(root, "", text.splitlines())] if isinstance(root, yaml.MappingNode) else []


def _keys(node: yaml.MappingNode, above: str, lines: list[str]) -> Iterator[Key]:
    for key, value in node.value:
        name = f"{above}{key.value}"
        if name in HIDDEN[:2] or key.value in HIDDEN:
            continue
        line = key.start_mark.line
        comment = _comment(lines[line], value, line) or _comment_above(lines, line)
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
        for file in sorted((CONFIGS / group).rglob("*.yaml")):
            named = group == "attention" and file.parent.name == "attention"
            if named or (group, file.stem) == ("card", "cell"):
                continue
            text = file.read_text(encoding="utf-8")
            lines += ["", f"### {heading(file, group)}", "", about(text)]
            rows = keys(text)
            whole = "@package _global_" in text
            below = "" if whole else f"{group}." if file.parent.name == group else f"{group}.{file.parent.name}."
            lines += table(rows, below) if rows else []
    return "\n".join([*lines, ""])
