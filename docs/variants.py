"""Writes docs/variants.md and the table of README.md from the configs and classes: python docs/variants.py"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from attnlab.attention.base import Attention
from attnlab.attention.cost import Cost
from attnlab.attention.head_wrapper import HeadWrapper
from attnlab.attention.softmax import SoftmaxAttention
from attnlab.build import attention_factory
from attnlab.config import compose_config, config_dir

ROOT = Path(__file__).parent.parent
PAGE, README = ROOT / "docs" / "variants.md", ROOT / "README.md"
BEGIN, END = "<!-- variants: written by docs/variants.py -->", "<!-- end of variants -->"
LENGTHS = (256, 4096)
FAMILIES = ("Softmax attention", "Recurrent and linear attention", "Mixtures of variants", "Controls")
# What every variant of a family has: said once, above the table.
COMMON = {"n_heads", "position", "dropout", "kinds", "mask", "score", "normalizer", "gate", "feature_map", "decay"}
COMMON |= {"write", "output_norm", "_target_", "_partial_"}
LEFT_OUT = """## What is left out, and why

| variant | reason |
|---|---|
| CSA and HCA (DeepSeek-V4), QSA | no full equations published, and decoding of the code differs from its training |
| CCA (ZAYA) | a convolution over queries and keys is `attention.conv`; the rest is one model's recipe |
| Parallax, DeltaFormer, Wall | young and unreplicated; their reductions are covered by softmax and delta rules |
| MesaNet | needs a linear solve per token that torch does slowly without a kernel |
| Mamba-3, Raven, GDN-2, preconditioned delta rules | 2026 variants of decay and write that wait for a second source |
| Reformer, Linformer, Longformer's non-causal forms | not causal, or replaced in practice by what is here |
| cog attention | its sign jumps where a score rounds across zero, so that bfloat16 is not near float32 |
"""


class Row(NamedTuple):
    """What the page says of one variant."""

    name: str
    family: str
    sentence: str
    formula: str
    papers: str
    options: str
    kind: str
    growth: str
    costs: tuple[Cost, ...]
    layers: int


def rows() -> Iterator[Row]:
    """One row per YAML of configs/attention, in alphabetical order."""
    for file in sorted((config_dir() / "attention").glob("*.yaml")):
        yield row(file)


def row(file: Path) -> Row:
    """What the YAML, the classes and a measurement say."""
    name, comment = file.stem, file.read_text(encoding="utf-8").split("\n")[0].removeprefix("# ")
    config = compose_config([f"attention={name}"])
    sizes = config["model"]
    n_layers, make = int(sizes["n_layers"]), attention_factory(config)
    with torch.device("meta"):
        layers = [
            make(int(sizes["d_model"]), layer=i, n_layers=n_layers, context=LENGTHS[-1] + 1) for i in range(n_layers)
        ]
    papers = re.findall(r"arXiv (\d{4}\.\d{4,5}(?:, \d{4}\.\d{4,5})*)", comment)
    numbers = [number for group in papers for number in group.split(", ")]
    return Row(
        name,
        family(layers[0], config["attention"]),
        re.sub(r" ?\((?:[^()]*arXiv[^()]*|Raschka[^()]*)\)", "", comment),
        formula(layers[0]),
        " ".join(f"[{number}](https://arxiv.org/abs/{number})" for number in numbers) or "none",
        options(config["attention"]),
        " or ".join(dict.fromkeys(layer.map_kind for layer in layers)).replace("_", "-"),
        " or ".join(dict.fromkeys(layer.growth for layer in layers)),
        tuple(total(layers, length) for length in LENGTHS),
        n_layers,
    )


def total(layers: list[Attention], length: int) -> Cost:
    """What all layers cost together."""
    first, *rest = (layer.cost(length, layers[:i]) for i, layer in enumerate(layers))
    for cost in rest:
        first = first + cost
    return first


def family(layer: Attention, config: object) -> str:
    """Where a variant stands on the page."""
    if isinstance(layer, HeadWrapper) or (isinstance(config, dict) and "pattern" in config):
        return FAMILIES[2]
    if not layer.learns_recall or not (layer.reads_positions or isinstance(layer, SoftmaxAttention)):
        return FAMILIES[3]
    return FAMILIES[0] if isinstance(layer, SoftmaxAttention) or layer.growth == "linear" else FAMILIES[1]


FORMULA = re.compile(
    r"\S+ = (?!\d).*?(?=\.(?: [A-Z(]|$)|;? (?:where|with|as in|so that|for)\b|, \w+ (?:the|is)\b|:? Source|$)"
)


def formula(layer: Attention) -> str:
    """The first formula of the class, and of a slot that is not the plainest."""
    found = []
    for module in layer.modules():
        kind = type(module)
        text = " ".join((vars(kind).get("__doc__") or "").split())
        ours = kind.__module__.startswith("attnlab.attention.") and "this base" not in text
        if ours and (match := FORMULA.search(text)):
            found.append(match.group().strip(" ,;:"))
    return ", ".join(f"`{one}`" for one in list(dict.fromkeys(found))[:2])


def options(config: dict[str, object]) -> str:
    """The settings that are the variant's own, with their defaults."""
    own = [f"`{key}={'null' if value is None else value}`" for key, value in config.items() if key not in COMMON]
    return " ".join(own) or "slots only"


def short(number: float) -> str:
    """1234567 -> 1.2M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def page(all_rows: list[Row]) -> str:
    """The text of docs/variants.md."""
    lines = [
        "# Variants",
        "",
        f"All {len(all_rows)} of them, as `attention=NAME`. Written by `make docs` from the configs and classes.",
        "",
        f"Costs are measured per layer at {LENGTHS[0]} and {LENGTHS[1]} tokens, in a model of width "
        f"{compose_config([])['model']['d_model']}: matmul FLOPs of one forward pass (2 per multiply-add, batch 1) "
        "and bytes of decode state in float32. Element-wise work counts 0. *map* is the kind of A in o = A v, *state* "
        "how what decoding keeps grows. Slots (`attention/mask=`, `score=`, `normalizer=`, `gate=`; recurrent: "
        "`feature_map=`, `decay=`, `write=`, `output_norm=`, `gate=`) and `position=` combine where not refused.",
    ]
    for name in FAMILIES:
        lines += [
            "",
            f"## {name}",
            "",
            "| `attention=` | what it is | formula | paper | options | map | state | FLOPs | bytes |",
            "|---|---|---|---|---|---|---|---:|---:|",
        ]
        for r in all_rows:
            if r.family == name:
                flops = " / ".join(short(c.forward_flops / r.layers) for c in r.costs)
                held = " / ".join(short(c.state_bytes / r.layers) for c in r.costs)
                cells = (f"`{r.name}`", r.sentence, r.formula, r.papers, r.options, r.kind, r.growth, flops, held)
                lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines += ["", "## Slots", ""]
    for slot in sorted(p for p in (config_dir() / "attention").iterdir() if p.is_dir()):
        names = ", ".join(f"`{file.stem}`" for file in sorted(slot.glob("*.yaml")))
        lines.append(f"- `attention/{slot.name}=` {names}")
    places = ", ".join(f"`{file.stem}`" for file in sorted((config_dir() / "position").glob("*.yaml")))
    lines += [f"- `position=` {places}", "", LEFT_OUT]
    return "\n".join(lines)


def readme(all_rows: list[Row], text: str) -> str:
    """README.md with its table brought up to date."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    lines = [BEGIN, "", "| `attention=` | what it is |", "|---|---|"]
    lines += [f"| `{r.name}` | {r.sentence.rstrip('.').replace('|', chr(92) + '|')} |" for r in all_rows]
    return before + "\n".join([*lines, "", END]) + after


def main() -> None:
    """Write both."""
    all_rows = list(rows())
    PAGE.write_text(page(all_rows), encoding="utf-8")
    README.write_text(readme(all_rows, README.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"{len(all_rows)} variants in {PAGE.relative_to(ROOT)} and {README.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
