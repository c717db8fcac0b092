"""A run in words and tables, and where it was made."""

import platform
import shlex
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from attnlab.attention.cost import Cost
from attnlab.config.code import repository
from attnlab.machine.command_line import typed
from attnlab.model import GPT

PACKAGES = ("attnlab", "torch", "lightning", "hydra-core", "tiktoken", "tensorboard", "numpy")


def cost_table(model: GPT, seq_len: int) -> str:
    """What the attention of each layer costs, as a Markdown table; layers that cost the same share a row."""
    rows: list[tuple[str, list[int], Cost]] = []
    mixers = [block.attention for block in model.layers]
    for i, mixer in enumerate(mixers):
        name, cost = type(mixer).__name__, mixer.cost(seq_len, mixers[:i])
        if rows and rows[-1][0] == name and rows[-1][2] == cost:
            rows[-1][1].append(i)
        else:
            rows.append((name, [i], cost))
    lines = [
        f"Attention, per layer, at {seq_len} tokens. FLOPs are those of matrix products, 2 per multiply-add, forward "
        "only, batch of one; pairs are those that one head may read.",
        "",
        "| layers | attention | parameters | forward FLOPs | decode FLOPs per token | state bytes | pairs |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name, layers, cost in rows:
        span = f"{layers[0]}" if len(layers) == 1 else f"{layers[0]} to {layers[-1]}"
        numbers = (cost.params, cost.forward_flops, cost.decode_flops, cost.state_bytes, cost.pairs)
        lines.append(f"| {span} | {name} | " + " | ".join("none" if n is None else f"{n:,}" for n in numbers) + " |")
    return "\n".join([*lines, "", f"The whole model has {model.n_parameters:,} parameters."])


def to_yaml(config: Mapping[str, Any]) -> str:
    """A config as YAML text, in its own order."""
    text: str = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    return text


def environment() -> dict[str, Any]:
    """Versions, and the commit of the code where it is a git checkout."""
    versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    commit, dirty = repository(Path(__file__).parent)
    return {
        "versions": versions,
        "git_commit": commit,
        "git_dirty": dirty,
        "platform": platform.platform(),
        "command": shlex.join(sys.argv),
        "typed": typed(),
    }
