"""A model as a folder that transformers opens without attnlab: its settings, its weights, and the code it runs."""

import ast
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnlab.config.allowed_classes import allowed_packages
from attnlab.config.code import sources_of
from attnlab.config.run_config import RunConfig
from attnlab.errors import UsageError
from attnlab.model import GPT
from attnlab.store.leaves import leaves

CODE = Path(__file__).with_name("remote_code")
CLASSES = {
    "AutoConfig": "configuration_attnlab.AttnlabConfig",
    "AutoModelForCausalLM": "modeling_attnlab.AttnlabForCausalLM",
}
EMPTY = "SOURCES: dict[str, str] = {}\n"  # in attnlab_source.py, which is filled here
RELATIVE = re.compile(r"^\s*(from|import)\s+\.", re.MULTILINE)  # transformers would look for such a file


def remote_files(
    model: GPT, config: RunConfig, dtype: torch.dtype = torch.float32
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, str]]:
    """What such a folder holds: config.json, the weights, and the text of each file of code by its name."""
    return remote_config(model, config, dtype), remote_tensors(model, dtype), remote_code(config)


def remote_config(model: GPT, config: RunConfig, dtype: torch.dtype) -> dict[str, Any]:
    """What config.json holds."""
    return {
        "model_type": "attnlab",
        "architectures": ["AttnlabForCausalLM"],
        "auto_map": CLASSES,
        "dtype": str(dtype).removeprefix("torch."),
        "vocab_size": model.vocab_size,
        "tie_word_embeddings": config.model.tie,
        "seed": config.streams.init,
        "model": asdict(config.model),
        "attention": config.attention,
        "embed": config.position.embed,
    }


def untied(model: GPT) -> dict[str, Tensor]:
    """The weights by their names in a GPT, without a head that is the embedding."""
    tied = model.head.weight is model.embedding.weight
    return {n: t.contiguous() for n, t in model.state_dict().items() if not (tied and n == "head.weight")}


def remote_tensors(model: GPT, dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights by the names that AttnlabForCausalLM gives them, and the constants that are not stored in a run."""
    constants = {name: each.contiguous() for name, each in model.named_buffers() if each.numel()}
    tensors = {f"model.{name}": each for name, each in {**untied(model), **constants}.items()}
    return {name: each.to(dtype) if each.is_floating_point() else each for name, each in tensors.items()}


def remote_code(config: RunConfig) -> dict[str, str]:
    """The files that transformers executes: two of ours, and the modules of the model word for word in a third."""
    nodes = {"attention": config.attention, "embed": config.position.embed}
    homes = [str(value).rpartition(".")[0] for key, value in leaves(nodes) if key.endswith("_target_")]
    sources = sources_of(["attnlab.model", *homes], allowed_packages(config.allow_targets))
    for file, text in sources.items():
        check_imports(file, text, {name.partition("/")[0].removesuffix(".py") for name in sources})
    files = {path.name: path.read_text(encoding="utf-8") for path in CODE.glob("*_attnlab.py")}
    head, tail = (CODE / "attnlab_source.py").read_text(encoding="utf-8").split(EMPTY)
    entries = "".join(f"{file!r}: {quoted(text)},\n" for file, text in sources.items())
    files["attnlab_source.py"] = f"{head}SOURCES = {{\n{entries}}}\n{tail}"
    return files


def quoted(text: str) -> str:
    """A text as it stands between three quotation marks, or, where that is not it, as Python writes it in a line."""
    plain = f"r'''{text}'''"
    try:
        same = ast.literal_eval(plain) == text
    except SyntaxError:
        same = False
    return plain if same and not RELATIVE.search(text) else repr(text)


def check_imports(file: str, text: str, roots: set[str]) -> None:
    """Refuse `import a.b` of what goes along: it would bind the name of another package."""
    for node in ast.walk(ast.parse(text)):
        for alias in node.names if isinstance(node, ast.Import) else ():
            root, dot, _ = alias.name.partition(".")
            if root in roots and dot and alias.asname is None:
                raise UsageError(
                    f"{file} says `import {alias.name}`, which cannot go along: write `from {root} import`"
                )
