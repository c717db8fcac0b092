"""The smallest folder of a Llama, written as somebody's own script would write it, without transformers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tests.interchange.tiny import save_tokenizer

CONFIG: Mapping[str, Any] = {
    **{"model_type": "llama", "vocab_size": 256, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1},
    **{"num_attention_heads": 2, "max_position_embeddings": 32},
}
SHAPES: Mapping[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (256, 8),
    "model.layers.0.input_layernorm.weight": (8,),
    **{f"model.layers.0.self_attn.{name}_proj.weight": (8, 8) for name in "qkvo"},
    "model.layers.0.post_attention_layernorm.weight": (8,),
    "model.layers.0.mlp.gate_proj.weight": (12, 8),
    "model.layers.0.mlp.up_proj.weight": (12, 8),
    "model.layers.0.mlp.down_proj.weight": (8, 12),
    "model.norm.weight": (8,),
    "lm_head.weight": (256, 8),
}


def numbers() -> dict[str, torch.Tensor]:
    """Random tensors of these shapes."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) * 0.5 for name, shape in SHAPES.items()}


def write_llama(folder: Path, tensors: Mapping[str, torch.Tensor] | None = None, **config: Any) -> Path:
    """The folder, with other tensors or other keys of its config; one that is ... is left out."""
    folder.mkdir(exist_ok=True)
    content = {key: value for key, value in {**CONFIG, **config}.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(content))
    save_file(dict(numbers() if tensors is None else tensors), folder / "model.safetensors")
    save_tokenizer(folder)
    return folder
