"""nanoGPT (A. Karpathy 2022); chapter 4 of "Build a Large Language Model (From Scratch)" (S. Raschka 2024)."""

from dataclasses import replace

from attnlab.interchange.families.family import Family
from attnlab.interchange.families.gpt2 import GPT2, LAYER
from attnlab.interchange.families.keys_of_config import FLAG, Same, Several, Unused
from attnlab.interchange.families.llama import QKV
from attnlab.interchange.families.transforms import QKV_ROWS, SAME
from attnlab.options.rules import COUNT

BIASES = ("model.norm_bias", "model.bias", "attention.qkv_bias", "attention.out_bias")
NANOGPT = replace(
    GPT2,
    model_type="nanogpt",
    architecture="",
    model={"norm": "layer", "mlp": "gelu", "mlp_ratio": 4.0, "tie": True},
    keys=(
        Same("vocab_size", "vocab_size", default=50304),
        Same("n_embd", "model.d_model", default=768),
        Same("block_size", "model.context", default=1024),
        Several("n_head", ("attention.n_heads", "model.n_heads"), COUNT, 12),
        Several("bias", BIASES, FLAG, True),
        Unused(("dropout",)),
    ),
    tensors={
        **{ours: (entry[0], SAME) if isinstance(entry, tuple) else entry for ours, entry in GPT2.tensors.items()},
        QKV: (f"{LAYER}.attn.c_attn", QKV_ROWS),
    },
    aliases={},
)
BLOCK = "trf_blocks.{i}"
NORMS = {"blocks.{i}.norm_attention": f"{BLOCK}.norm1", "blocks.{i}.norm_mlp": f"{BLOCK}.norm2", "norm": "final_norm"}
FROM_SCRATCH = Family(
    model_type="llm_from_scratch",
    architecture="",
    model={"norm": "layer", "norm_bias": True, "mlp": "gelu_tanh", "mlp_ratio": 4.0, "bias": True},
    attention={**GPT2.attention, "qkv_bias": False},
    embed=GPT2.embed,
    keys=(
        Same("vocab_size", "vocab_size"),
        Same("emb_dim", "model.d_model"),
        Same("context_length", "model.context"),
        Several("n_heads", ("attention.n_heads", "model.n_heads"), COUNT),
        Same("qkv_bias", "attention.qkv_bias", FLAG, False),
        Same("tied", "model.tie", FLAG, False),
    ),
    tensors={
        "embedding": "tok_emb",
        "embed.table": "pos_emb",
        **{f"{ours}.weight": f"{theirs}.scale" for ours, theirs in NORMS.items()},
        **{f"{ours}.bias": f"{theirs}.shift" for ours, theirs in NORMS.items()},
        **{ours: f"{BLOCK}.att.W_{name}" for ours, name in zip(QKV, ("query", "key", "value"), strict=True)},
        "blocks.{i}.attention.to_out": f"{BLOCK}.att.out_proj",
        "blocks.{i}.mlp.up": f"{BLOCK}.ff.layers.0",
        "blocks.{i}.mlp.down": f"{BLOCK}.ff.layers.2",
        "head": "out_head",
    },
    n_layers="n_layers",
    prefix="",
    unused=(r"trf_blocks\.\d+\.att\.mask",),
)
