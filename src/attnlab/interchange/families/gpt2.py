"""GPT-2 (Radford et al. 2019): learned positions, one transposed matrix for queries, keys and values."""

from attnlab.interchange.families.family import Family
from attnlab.interchange.families.keys_of_config import COUNT_OR_NULL, FLAG, NOPE, Choice, Must, Same, Several, Unused
from attnlab.interchange.families.llama import ATTENTION, UNGATED
from attnlab.interchange.families.settings import HOME
from attnlab.interchange.families.transforms import QKV_ROWS, TRANSPOSED, then
from attnlab.options.rules import COUNT, POSITIVE

LAYER = "transformer.h.{i}"
QKV = tuple(f"blocks.{{i}}.attention.qkv.to_{name}" for name in "qkv")
LAYER_NORM = {"norm": "layer", "norm_bias": True}
GPT2 = Family(
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    model={**LAYER_NORM, "bias": True, "mlp_ratio": 4.0},
    attention={**ATTENTION, "position": NOPE, "qkv_bias": True, "out_bias": True},
    embed={"_target_": f"{HOME}embedding.LearnedEmbedding", "_partial_": True},
    keys=(
        Same("vocab_size", "vocab_size", default=50257),
        Same("n_embd", "model.d_model", default=768),
        Same("n_positions", "model.context", default=1024),
        Several("n_head", ("attention.n_heads", "model.n_heads"), COUNT, 12),
        Same("n_inner", "model.mlp_width", COUNT_OR_NULL, None),
        Choice("activation_function", "model.mlp", UNGATED, "gelu_new"),
        Same("layer_norm_epsilon", "model.norm_eps", POSITIVE, 1e-5),
        Same("tie_word_embeddings", "model.tie", FLAG, True),
        Must("scale_attn_weights", (True,)),
        Must("scale_attn_by_inverse_layer_idx", (False,)),
        Unused(("n_ctx", "reorder_and_upcast_attn")),
    ),
    tensors={
        "embedding": "transformer.wte",
        "embed.table": "transformer.wpe",
        "blocks.{i}.norm_attention": f"{LAYER}.ln_1",
        QKV: (f"{LAYER}.attn.c_attn", then(TRANSPOSED, QKV_ROWS)),
        "blocks.{i}.attention.to_out": (f"{LAYER}.attn.c_proj", TRANSPOSED),
        "blocks.{i}.norm_mlp": f"{LAYER}.ln_2",
        "blocks.{i}.mlp.up": (f"{LAYER}.mlp.c_fc", TRANSPOSED),
        "blocks.{i}.mlp.down": (f"{LAYER}.mlp.c_proj", TRANSPOSED),
        "norm": "transformer.ln_f",
        "head": "lm_head",
    },
    n_layers="n_layer",
    prefix="transformer.",
    unused=(r".*attn\.(bias|masked_bias)",),
)
