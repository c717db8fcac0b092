"""Writes docs/variants.md from the configs and classes: python docs/variants.py"""

import importlib
import inspect
import itertools
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from pydoc import locate
from typing import NamedTuple

import torch

from attnlab import attention
from attnlab.attention.base import Attention
from attnlab.attention.cost import Cost
from attnlab.attention.decay import Decay
from attnlab.attention.gate import Gate
from attnlab.attention.head_wrapper import HeadWrapper
from attnlab.attention.mask import Causal
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.normalizer import Softmax
from attnlab.attention.output_norm import RMSOutputNorm
from attnlab.attention.position import Position
from attnlab.attention.recurrent import RecurrentAttention
from attnlab.attention.score import Scaled
from attnlab.attention.softmax import SoftmaxAttention
from attnlab.attention.traits import rule_of
from attnlab.attention.write import AddWrite
from attnlab.build import attention_factory
from attnlab.config.compose import compose_config, config_dir
from attnlab.config.keys import sentence
from attnlab.config.run_config import RunConfig
from attnlab.errors import shown
from attnlab.options import REQUIRED, Configurable, settable

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "variants.md"
LENGTHS = (256, 4096)
FAMILIES = ("Softmax attention", "Recurrent and linear attention", "Mixtures of variants", "Controls")
# What every variant of a family has: said once, above the table.
COMMON = {"n_heads", "position", "dropout", "kinds", "mask", "score", "normalizer", "gate", "feature_map", "decay"}
COMMON |= {"write", "output_norm", "_target_", "_partial_"}
# The options that a variant is not told apart by, and the classes that are told apart by their options alone.
PLAIN = (AddWrite, Causal, Scaled, Softmax)
COMPOSED = (MultiHeadAttention, RecurrentAttention)
# What the picture of each family shows (docs/pictures.py draws it).
SHOWS = {
    "Softmax attention": "Plain attention may read all that came before; a window with a sink leaves a band of four "
    "tokens and the first column; here stick breaking gives most weight to near tokens, and some rows little weight in "
    "all; the difference of two maps is below zero (blue) at most places.",
    "Recurrent and linear attention": "Linear attention spreads its weight over columns, the same in every row here; "
    "with a decay they shrink as they grow old, fast in H00 and slowly in H01; the delta rule gives weights of both "
    "signs, many below zero (blue).",
    "Mixtures of variants": "Heads that differ: H00 reads all that came before, H01 a band of four tokens. Layers that "
    "differ: in one model, a delta-rule memory with weights of both signs, and above it a softmax attention whose rows "
    "sum to one.",
    "Controls": "The same weight for every token; weights that each token gives to places, whatever stands there, "
    "almost equal after so short a training; and attention without trained weights, where each token finds itself.",
}
ABOUT = """Most are presets of slots, and slots combine freely: `attention/mask=`, `attention/score=` (a chain),
`attention/normalizer=`, `attention/gate=`; for the recurrent family `attention/feature_map=`, `decay=`, `write=`,
`output_norm=`, `gate=`; `attention.conv=4` and `position=` for both. Incompatible options are refused in one line
with the reason.

Every variant is tested against [fifteen laws](own.md) and 92 reductions between variants (a window as long as the
text is full attention, and so on). COMPARED are tested against public implementations (Hugging Face transformers,
x-transformers, entmax, flash-linear-attention): outputs and gradients, and where available maps and cached decoding,
agree to 1e-10 in float64 ([oracles](oracles.md)).

Long sequences are fast where the rule allows it: at 8192 tokens on one CPU thread, a 256-token window computed in
blocks is 11 to 16 times faster than the same window as a mask; chunked linear attention is 9 to 16 times and chunked
Gated DeltaNet 4 to 5 times faster than causal SDPA, forward and backward, on two kinds of processor (`python
bench/long_sequences.py`).
"""
LEFT_OUT = """## What is left out, and why

As of November 2026.

| variant | reason |
|---|---|
| QSA (Qwen4-exp) | blocks chosen by rectified scores of mean keys, beside the one that runs; near `msa`, not built |
| GLM-5.3-Flash | `kda` and a latent attention whose indexer pools keys by a gate, where `dsa` picks single tokens |
| Inkling 2 | `inkling` with `query_sink` and gates, but its taps depend on the token and lengths are clipped |
| Muse Spark | windows, `qk_norm` and `gate=elementwise`, but what each head brings home is normed, too |
| Laguna | windows and `qk_norm`, but its gates are softplus, and layers differ in their number of heads |
| LFM2, LFM3 (gated short convolutions), Mamba-1, RG-LRU | a map for each channel, not for each head |
| Gated KalmaNet | `mesa` with a ridge that follows its memory, and a fixed number of steps of a solver; not built |
| Cyclic flow attention (2609.36259) | flash-linear-attention 0.6 has a plain form to hold it to; not built |
| Wall (gates per channel inside the scores) | its scores cost tokens x tokens x width without a kernel; not built |
| Rebased, Mixture of Memories, log-linear delta rules | close to `based`, `gated_delta`, `log_linear`; not built |
| Titans, Miras, Atlas, TNT | not linear in the values, so without a map, or code of the authors; near `ttt` |
| 2-simplicial attention | its map is over pairs of keys, which no picture here shows |
| RWKV-8 (ROSA) | a search for the longest repeated suffix, without a gradient of its own |
| Reformer, Linformer, Longformer's non-causal forms | not causal, or replaced in practice by what is here |
"""


class Row(NamedTuple):
    """What the page says of one variant."""

    name: str
    family: str
    sentence: str
    formula: str
    papers: str
    deviations: list[str]
    options: str
    kind: str
    growth: str
    costs: tuple[Cost, ...]
    layers: int


def compared() -> int:
    """How many variants stand in the table of docs/oracles.md."""
    return len(set(re.findall(r"`attention=(\w+)`", (ROOT / "docs" / "oracles.md").read_text())))


def rows() -> Iterator[Row]:
    """One row per YAML of configs/attention, in alphabetical order."""
    for file in sorted((config_dir() / "attention").glob("*.yaml")):
        yield row(file)


def row(file: Path) -> Row:
    """What the YAML, the classes and a measurement say."""
    name, comment = file.stem, sentence("attention", file.stem)
    config, layers = built(name)
    n_layers = len(layers)
    # A pattern of layers names the kind of each; a pattern of heads makes every layer the same.
    pattern = str(config.attention.get("pattern", "")).split() if not isinstance(layers[0], HeadWrapper) else []
    pattern = pattern or [name]
    papers = re.findall(r"arXiv (\d{4}\.\d{4,5}(?:, \d{4}\.\d{4,5})*)", comment)
    numbers = [number for group in papers for number in group.split(", ")]
    return Row(
        name,
        family(layers[0], config.attention),
        re.sub(r" ?\((?:[^()]*arXiv[^()]*|Raschka[^()]*)\)", "", comment),
        formula(layers),
        " ".join(f"[{number}](https://arxiv.org/abs/{number})" for number in numbers) or "none",
        deviations(file, layers),
        options(config.attention),
        " or ".join(dict.fromkeys(layer.traits.map_kind for layer in layers)).replace("_", "-"),
        " or ".join(dict.fromkeys(layer.traits.growth for layer in layers)),
        tuple(total(layers, (pattern * n_layers)[:n_layers], length) for length in LENGTHS),
        n_layers,
    )


def built(name: str) -> tuple[RunConfig, list[Attention]]:
    """The config of a variant, and the layers of its model as tensors without numbers."""
    config = compose_config([f"attention={name}"])
    sizes, make = config.model, attention_factory(config)
    with torch.device("meta"):
        layers = [
            make(sizes.d_model, layer=i, n_layers=sizes.n_layers, context=LENGTHS[-1] + 1)
            for i in range(sizes.n_layers)
        ]
    return config, layers


def total(layers: list[Attention], names: list[str], length: int) -> Cost:
    """What all layers cost together; of layers of one kind, that read nothing of those below, one is measured."""
    known: dict[str, Cost] = {}
    costs = []
    for i, (layer, name) in enumerate(zip(layers, names, strict=True)):
        key = name if not any(layer.traits.requires for layer in layers) else str(i)
        if key not in known:
            known[key] = layer.cost(length, layers[:i])
        costs.append(known[key])
    first, *rest = costs
    for cost in rest:
        first = first + cost
    return first


def family(layer: Attention, config: object) -> str:
    """Where a variant stands on the page."""
    if isinstance(layer, HeadWrapper) or (isinstance(config, dict) and "pattern" in config):
        return FAMILIES[2]
    if not layer.traits.can_recall or not (layer.traits.uses_position or isinstance(layer, SoftmaxAttention)):
        return FAMILIES[3]
    return FAMILIES[0] if isinstance(layer, SoftmaxAttention) or layer.traits.growth == "linear" else FAMILIES[1]


SHOWN = 3  # formulas per variant


def rules(layers: list[Attention]) -> Iterator[type]:
    """The classes that set a variant apart, in order: its own, and those of its slots' options that are not plain."""
    for kind in dict.fromkeys(type(layer) for layer in layers):
        layer = next(layer for layer in layers if type(layer) is kind)
        parts = [*layer.modules(), *(m.mask for m in layer.modules() if isinstance(m, SoftmaxAttention))]
        parts = [part for part in parts if type(part) not in (*PLAIN, kind) and not isinstance(part, Position)]
        # The rules of scores and memories say most, then features and decays, then what acts after the map.
        after = (Gate, RMSOutputNorm)
        parts.sort(key=lambda part: 2 * isinstance(part, after) or isinstance(part, Decay) or getattr(part, "unit", 0))
        slots = [type(part) for part in parts if rule_of(type(part))]
        yield from slots if slots and kind in COMPOSED else [kind, *slots]


def formula(layers: list[Attention]) -> str:
    """What sets a variant apart: the formulas of its slots' options, or of its class where all slots are plain."""
    return ", ".join(f"`{rule}`" for rule in list(dict.fromkeys(map(rule_of, rules(layers))))[:SHOWN])


DEVIATION = re.compile(r"(?:[Ww]here we differ|Where it differs): (.*)")


def deviations(file: Path, layers: list[Attention]) -> list[str]:
    """Where a variant differs from its source: what its YAML, its class and the options of its slots say, each once."""
    head = itertools.takewhile(lambda line: line.startswith("#"), file.read_text(encoding="utf-8").splitlines())
    texts = [" ".join(line.removeprefix("#").strip() for line in head)]
    parts = [part for layer in layers for part in layer.modules()]
    parts += [m.mask for layer in layers for m in layer.modules() if isinstance(m, SoftmaxAttention)]
    for kind in dict.fromkeys(base for part in parts for base in type(part).__mro__):
        if kind.__module__.startswith("attnlab."):
            paragraphs = (vars(kind).get("__doc__") or "").split("\n\n")
            texts += [" ".join(paragraph.split()) for paragraph in paragraphs]
    return deviations_in(texts)


def deviations_in(texts: list[str]) -> list[str]:
    """What paragraphs say of it, each once."""
    matches = [match for text in dict.fromkeys(texts) if (match := DEVIATION.search(text))]
    return [match.group(1)[0].upper() + match.group(1)[1:] for match in matches]


def positions() -> Iterator[str]:
    """Where the positions that act inside the layers differ from their sources, a line each."""
    for file in sorted((config_dir() / "position").glob("*.yaml")):
        kind = locate(compose_config([f"position={file.stem}"]).position.inside["_target_"])
        paragraphs = (vars(kind).get("__doc__") or "").split("\n\n")
        for text in deviations_in([" ".join(paragraph.split()) for paragraph in paragraphs]):
            yield f"- `position={file.stem}`: {text}"


def options(config: dict[str, object]) -> str:
    """The settings that are the variant's own, with their defaults."""
    own = [f"`{key}={'null' if value is None else value}`" for key, value in config.items() if key not in COMMON]
    return " ".join(own) or "slots only"


def option_table() -> Iterator[str]:
    """Rows of every option that a class of attention/ or position.py declares, as the class declares it."""
    names = sorted(module.name for module in pkgutil.iter_modules(attention.__path__))
    homes = [f"attnlab.attention.{name}" for name in names] + ["attnlab.attention.position"]
    for module in map(importlib.import_module, homes):
        for kind in vars(module).values():
            if not (inspect.isclass(kind) and issubclass(kind, Configurable) and kind.__module__ == module.__name__):
                continue
            bases = [f"`{base.__name__}`" for base in kind.__bases__ if issubclass(base, Configurable)]
            gone = [f"`{name}`" for name in sorted(vars(kind).get("withdrawn", ()))]
            about = ", ".join(b for b in bases if b != "`Configurable`") + (f", without {', '.join(gone)}" * bool(gone))
            first = f"`{kind.__name__}`" + (f" ({about})" if about else "")
            own = settable(vars(kind)["_declared"])
            for name, o in own.items():
                default = "required" if o.default is REQUIRED else getattr(o.default, "__name__", shown(o.default))
                null = f" ({o.null})" if o.null else ""
                allowed = o.allowed.replace("|", "\\|")
                yield f"| {first} | `{name}` | {allowed} | {default}{null} | {o.doc} |"
                first = ""
            if gone and not own:
                yield f"| {first} | | | | |"


def short(number: float) -> str:
    """1234567 -> 1.2M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def picture_of(family: str) -> Path:
    """Where the maps of a family are drawn."""
    return PAGE.parent / "maps" / f"{family.split()[0].lower()}.png"


def line(r: Row) -> str:
    """A variant's line in the table of docs/variants.md."""
    flops = " / ".join(short(c.forward_flops / r.layers) for c in r.costs)
    held = " / ".join(short(c.state_bytes / r.layers) for c in r.costs)
    cells = (f"`{r.name}`", r.sentence, r.formula, r.papers, r.options, r.kind, r.growth, flops, held)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def page(all_rows: list[Row]) -> str:
    """The text of docs/variants.md."""
    lines = [
        "# Variants",
        "",
        f"All {len(all_rows)} of them, as `attention=NAME`. Written by `make docs` from the configs and classes.",
        "",
        ABOUT.replace("COMPARED", str(compared())),
        f"Costs are measured per layer at {LENGTHS[0]} and {LENGTHS[1]} tokens, in a model of width "
        f"{compose_config([]).model.d_model}: matmul FLOPs of one forward pass (2 per multiply-add, batch 1) "
        "and bytes of decode state in float32. Element-wise work counts 0. *map* is the kind of A in o = A v, *state* "
        "how what decoding keeps grows.",
        "",
        "The pictures show models of 4 layers, 4 heads and width 128 after a short training on the stories (`make "
        "pictures`): of one layer the first two heads, with the range of their weights beside their names. Colours of "
        "signed maps are logarithmic, so that small weights look strong.",
    ]
    for name in FAMILIES:
        lines += [
            "",
            f"## {name}",
            "",
            SHOWS[name],
            "",
            f"![Attention maps: {name.lower()}]({picture_of(name).relative_to(PAGE.parent).as_posix()})",
            "",
            "| `attention=` | what it is | formula | paper | options | map | state | FLOPs | bytes |",
            "|---|---|---|---|---|---|---|---:|---:|",
        ]
        lines += [line(r) for r in all_rows if r.family == name]
        told = [r for r in all_rows if r.family == name and r.deviations]
        lines += ["", "Where they differ from their sources:", ""] if told else []
        lines += [f"- `{r.name}` ({r.papers}): {' '.join(r.deviations)}" for r in told]
    lines += [
        "",
        "## Options",
        "",
        "As the classes declare them, which is also what `help(CLASS)` prints. A class has those of the classes in "
        "brackets, too. A slot holds a class with its settings.",
        "",
        "| class | option | may hold | default | what it is |",
        "|---|---|---|---|---|",
        *option_table(),
    ]
    lines += ["", "## Slots", ""]
    for slot in sorted(p for p in (config_dir() / "attention").iterdir() if p.is_dir()):
        names = ", ".join(f"`{file.stem}`" for file in sorted(slot.glob("*.yaml")))
        lines.append(f"- `attention/{slot.name}=` {names}")
    places = ", ".join(f"`{file.stem}`" for file in sorted((config_dir() / "position").glob("*.yaml")))
    lines += [
        f"- `position=` {places}",
        "",
        "Where positions differ from their sources:",
        "",
        *positions(),
        "",
        LEFT_OUT,
    ]
    return "\n".join(lines)


def main() -> None:
    """Write it."""
    all_rows = list(rows())
    PAGE.write_text(page(all_rows), encoding="utf-8")
    print(f"{len(all_rows)} variants in {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
