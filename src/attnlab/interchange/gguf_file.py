"""A model in a GGUF file (github.com/ggml-org/ggml/blob/master/docs/gguf.md), read and written.

llama.cpp keeps the rows of queries and keys of a Llama so that neighbours rotate, as ours do, and those of a Qwen in
halves, as transformers does.
"""

import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnlab.config.run_config import RunConfig
from attnlab.data.download import sha256_of_file
from attnlab.data.tokenizers import Tokenizer
from attnlab.errors import UsageError, shown
from attnlab.interchange.families.family import Family
from attnlab.interchange.families.llama import LLAMA, QWEN2, QWEN3
from attnlab.interchange.families.model_settings import normal, settings_of_run, spelled_out
from attnlab.interchange.families.transforms import PAIRS
from attnlab.interchange.gguf_tokenizer import write_tokenizer
from attnlab.interchange.hf_folder import TensorHeader
from attnlab.model import GPT

INSTALL = "pip install 'attnlab[gguf]'"
BLOCK = "blk.{i}."
NAMES: dict[Any, Any] = {
    "embedding": "token_embd",
    "blocks.{i}.norm_attention": f"{BLOCK}attn_norm",
    "blocks.{i}.attention.qkv.to_q": f"{BLOCK}attn_q",
    "blocks.{i}.attention.qkv.to_k": f"{BLOCK}attn_k",
    "blocks.{i}.attention.qkv.to_v": f"{BLOCK}attn_v",
    "blocks.{i}.attention.to_out": f"{BLOCK}attn_output",
    "blocks.{i}.norm_mlp": f"{BLOCK}ffn_norm",
    "blocks.{i}.mlp.gate": f"{BLOCK}ffn_gate",
    "blocks.{i}.mlp.up": f"{BLOCK}ffn_up",
    "blocks.{i}.mlp.down": f"{BLOCK}ffn_down",
    "norm": "output_norm",
    "head": "output",
}
IN_HALVES = {
    **NAMES,
    "blocks.{i}.attention.qkv.to_q": (f"{BLOCK}attn_q", PAIRS),
    "blocks.{i}.attention.qkv.to_k": (f"{BLOCK}attn_k", PAIRS),
    "blocks.{i}.attention.score.*.q_norm": (f"{BLOCK}attn_q_norm", PAIRS),
    "blocks.{i}.attention.score.*.k_norm": (f"{BLOCK}attn_k_norm", PAIRS),
}
# By what llama.cpp calls them; the first that fits is the one that a run is written as.
FAMILIES: Mapping[str, Family] = {
    "llama": LLAMA.but("llama", LLAMA.architecture, tensors=NAMES, prefix=""),
    "qwen2": QWEN2.but("qwen2", QWEN2.architecture, tensors=IN_HALVES, prefix=""),
    "qwen3": QWEN3.but("qwen3", QWEN3.architecture, tensors=IN_HALVES, prefix=""),
}
SIZES = {  # keys of theirs behind the architecture, and what config.json calls them
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}
SAME_AS = {"attention.value_length": "head_dim", "rope.dimension_count": "head_dim", "vocab_size": "vocab_size"}
TOKENS = "tokenizer.ggml."


class GGUFFile:
    """The config and the weights of a GGUF file; tensors are made plain numbers one at a time, when they are asked for.

    Raises UsageError for what is no such file, or holds a model that is no Llama or Qwen.
    """

    def __init__(self, path: Path) -> None:
        try:
            from gguf import GGUFReader
        except ImportError as error:
            raise UsageError(f"gguf ({path}) needs the package gguf: {INSTALL}") from error
        self.path = path
        if not path.is_file():
            raise UsageError(f"gguf ({path}) must be a file")
        try:
            reader = GGUFReader(path)
            self.about = {name: field.contents() for name, field in reader.fields.items()}
            self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        except Exception as error:  # whatever it makes of bytes that are none of its own
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
            raise UsageError(f"gguf ({path}) is no whole GGUF file ({reason})") from error
        self.names = {
            name: TensorHeader("F32", tuple(int(n) for n in reversed(tensor.shape)))
            for name, tensor in self._tensors.items()
        }
        self.generation: dict[str, Any] = {}

    def __str__(self) -> str:
        return str(self.path)

    @cached_property
    def family(self) -> Family:
        """The layout of its tensors."""
        name = str(self.about.get("general.architecture"))
        if name not in FAMILIES:
            among = f"must be {' | '.join(FAMILIES)}"
            raise UsageError(f"{self}: its architecture ({shown(name)[:60]}) {among}")
        return FAMILIES[name]

    @cached_property
    def config(self) -> dict[str, Any]:
        """What config.json would say. A key of the architecture that is not understood is refused by name."""
        return config_of(self.family.model_type, self.about, self.names, str(self))

    def tensor(self, name: str) -> Tensor:
        """One tensor in float32, which holds the numbers of every type that the package can read."""
        from gguf.quants import dequantize

        stored = self._tensors[name]
        try:
            numbers = dequantize(stored.data, stored.tensor_type)
        except (NotImplementedError, ValueError) as error:
            raise UsageError(f"{name} in {self} is of type {stored.tensor_type.name}, which is not read") from error
        tensor = torch.from_numpy(np.array(numbers, dtype=np.float32).reshape(self.names[name].shape))
        if not tensor.isfinite().all():
            raise UsageError(f"{name} in {self} holds numbers that are not finite")
        return tensor

    @cached_property
    def sha256(self) -> dict[str, str]:
        """Of the file, by its name."""
        return {self.path.name: sha256_of_file(self.path)}

    @property
    def tokenizer(self) -> dict[str, Any]:
        """What the file says of its tokenizer."""
        return {k.removeprefix(TOKENS): value for k, value in self.about.items() if k.startswith(TOKENS)}

    @property
    def types(self) -> dict[str, int]:
        """How many tensors are stored in which type."""
        kinds = [tensor.tensor_type.name for tensor in self._tensors.values()]
        return {kind: kinds.count(kind) for kind in sorted({*kinds})}


def config_of(
    architecture: str, about: Mapping[str, Any], shapes: Mapping[str, TensorHeader], source: str
) -> dict[str, Any]:
    """The config.json of what the metadata and the shapes of the tensors say."""
    before = f"{architecture}."
    own = {key.removeprefix(before): _plain(value) for key, value in about.items() if key.startswith(before)}
    content: dict[str, Any] = {
        "model_type": architecture,
        "vocab_size": shapes["token_embd.weight"].shape[0] if "token_embd.weight" in shapes else 0,
        "tie_word_embeddings": "output.weight" not in shapes,
    }
    if architecture == "llama":
        content["attention_bias"] = "blk.0.attn_q.bias" in shapes
    content |= {theirs: own.pop(key) for key, theirs in SIZES.items() if key in own}
    n_heads = content.get("num_attention_heads") or 1
    content["head_dim"] = content.get("head_dim") or content.get("hidden_size", 0) // n_heads
    if own.get("rope.scaling.type") == "linear":
        content["rope_scaling"] = {"rope_type": "linear", "factor": own.pop("rope.scaling.factor", 1.0)}
        del own["rope.scaling.type"]
    for key, value in own.items():
        if SAME_AS.get(key) is None or content.get(SAME_AS[key]) != value:
            raise UsageError(f"{source}: {before}{key} ({shown(value)[:60]}) is not understood")
    return content


def gguf_bytes(config: RunConfig, model: GPT, tokenizer: Tokenizer, name: str) -> bytes:
    """A GGUF file of a model, in float32.

    Raises UsageError, by name, where llama.cpp has no such model, or knows no such way to cut a text.
    """
    try:
        from gguf import GGUFWriter
    except ImportError as error:
        raise UsageError(f"to=gguf needs the package gguf: {INSTALL}") from error
    own = settings_of_run(config, model.vocab_size)
    forms = [(name, each) for each in (own, spelled_out(own)) for name, f in FAMILIES.items() if f.fits(each)]
    if not forms:
        raise UsageError(f"to=gguf writes models with the settings of {', '.join(FAMILIES)}, and {name} has others")
    architecture, settings = forms[0]
    family, tensors = FAMILIES[architecture], dict(FAMILIES[architecture].tensors_of(model))
    config_json = family.config_json(settings)
    config_json["rope_theta"] = settings.layers[0]["position"].get("base")
    sizes = {key: config_json[theirs] for key, theirs in SIZES.items() if config_json.get(theirs) is not None}
    about = {f"{architecture}.{key}": size for key, size in sizes.items()}
    head_dim = config_json.get("head_dim") or config_json["hidden_size"] // config_json["num_attention_heads"]
    same = {"head_dim": head_dim, "vocab_size": model.vocab_size}
    about |= {f"{architecture}.{key}": same[theirs] for key, theirs in SAME_AS.items()}
    headers = {key: TensorHeader("F32", tuple(tensor.shape)) for key, tensor in tensors.items()}
    if normal(family.settings(config_of(architecture, about, headers, name), name)) != normal(settings):
        raise UsageError(f"to=gguf: a GGUF file has no word for some settings of {name}")
    tokens = write_tokenizer(tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        writer = GGUFWriter(path, architecture)
        writer.add_name(name)
        for key, value in {**about, **{f"{TOKENS}{key}": value for key, value in tokens.items()}}.items():
            _add(writer, key, value)
        for key, tensor in tensors.items():
            writer.add_tensor(key, tensor.float().contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    else:
        kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        kinds[type(value)](key, value)


def _plain(value: Any) -> Any:
    """A float32 as the number that was written down: 1e-5, not 9.999999747378752e-06."""
    return float(str(np.float32(value))) if isinstance(value, float) else value
