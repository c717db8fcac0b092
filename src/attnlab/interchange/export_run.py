"""What a run becomes for other tools: the files of a folder by name."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from attnlab.config.run_config import RunConfig
from attnlab.data.hf_export import to_hf
from attnlab.data.tokenizers import Tokenizer
from attnlab.interchange.families.family import Family
from attnlab.interchange.families.registry import native_form
from attnlab.interchange.gguf_file import gguf_bytes
from attnlab.interchange.hf_folder import CONFIG, DTYPES, GENERATION, WEIGHTS
from attnlab.interchange.model_card import model_card
from attnlab.interchange.remote_export import remote_files, untied
from attnlab.model import GPT
from attnlab.store.run_folder import RunFolder


def exported(run: RunFolder, config: RunConfig, model: GPT, tokenizer: Tokenizer, *, to: str) -> dict[str, bytes]:
    """The files of a folder. `hf` is for transformers: in the layout of a type of theirs where one can say all of the
    settings, else with the code that it runs. `safetensors` holds nothing but the weights, by our names."""
    summary = run.read_summary()
    if to == "gguf":
        return {"model.gguf": gguf_bytes(config, model, tokenizer, run.name)}
    if to == "safetensors":
        about = {"format": "pt", "run": run.name, "variant": str(summary.get("variant"))}
        return {WEIGHTS: save(untied(model), metadata=about)}
    origin: Mapping[str, Any] = summary.get("imported") or {}
    native = native_form(config, model.vocab_size, like=origin.get("model_type"))
    names = {"bos_token_id": tokenizer.bos[:1], "eos_token_id": tokenizer.eos[:1]}
    around = {name: ids[0] if ids else None for name, ids in names.items()}  # else transformers takes ids of its own
    if native is None:
        dtype = DTYPES[origin["dtype"]] if origin and not origin["other_dtypes"] else torch.float32
        settings, tensors, code = remote_files(model, config, dtype)
        settings |= around
    else:
        (family, ours), code = native, {}
        tensors = dict(_native_tensors(family, model, origin))
        if origin:
            settings = family.config_like(ours, origin["config"])
        else:
            settings = {**family.config_json(ours), "dtype": "float32", **around}
    files = {
        CONFIG: _json(settings),
        GENERATION: _json(origin.get("generation_config") or around),
        WEIGHTS: save(tensors, metadata={"format": "pt"}),
        **{name: text.encode() for name, text in {**code, **to_hf(tokenizer)}.items()},
    }
    return {**files, "README.md": model_card(run, config, tokenizer, remote=native is None).encode()}


def _native_tensors(family: Family, model: GPT, origin: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """The weights by their names, each in the type that it came in."""
    usual, others = origin.get("dtype", "F32"), origin.get("other_dtypes", {})
    for name, tensor in family.tensors_of(model):
        yield name, tensor.to(DTYPES[others.get(name, usual)]).contiguous().clone()


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
