"""MPT (MosaicML): linear biases in the place of positions, one matrix for queries, keys and values."""

from attnlab.interchange.families.family import Family
from attnlab.interchange.families.keys_of_config import FLAG, POSITIVE_OR_NULL, Must, Same, Several, Unused
from attnlab.interchange.families.llama import ATTENTION
from attnlab.interchange.families.model_settings import HOME
from attnlab.interchange.families.transforms import QKV_ROWS
from attnlab.options.rules import COUNT, POSITIVE

LAYER = "transformer.blocks.{i}"
QKV = tuple(f"blocks.{{i}}.attention.qkv.to_{name}" for name in "qkv")
MPT = Family(
    model_type="mpt",
    architecture="MptForCausalLM",
    model={"norm": "layer", "mlp": "gelu", "mlp_ratio": 4.0},
    attention={**ATTENTION, "position": {"_target_": f"{HOME}position_bias.ALiBi", "_partial_": True}},
    keys=(
        Same("vocab_size", "vocab_size", default=50368),
        Same("d_model", "model.d_model", default=2048),
        Same("max_seq_len", "model.context", default=2048),
        Several("n_heads", ("attention.n_heads", "model.n_heads"), COUNT, 16),
        Same("layer_norm_epsilon", "model.norm_eps", POSITIVE, 1e-5),
        Same("tie_word_embeddings", "model.tie", FLAG, True),
        Same("attn_config.softmax_scale", "attention.score.scaled.scale", POSITIVE_OR_NULL, None),
        Must("expansion_ratio", (4,)),
        Must("no_bias", (True,)),
        Must("attn_config.alibi", (True,)),
        Must("attn_config.alibi_bias_max", (8,)),
        Must("attn_config.attn_type", ("multihead_attention",)),
        Must("attn_config.clip_qkv", (None,)),
        Must("attn_config.prefix_lm", (False,)),
        Must("attn_config.qk_ln", (False,)),
        Must("attn_config.attn_uses_sequence_id", (False,)),
        Must("logit_scale", (None,)),
        Unused(
            ("learned_pos_emb", "embedding_fraction", "norm_type", "attn_config.attn_impl", "init_config", "verbose")
        ),
        Unused(("attn_config.model_type", "attn_config.attn_pdrop")),
    ),
    tensors={
        "embedding": "transformer.wte",
        "blocks.{i}.norm_attention": f"{LAYER}.norm_1",
        QKV: (f"{LAYER}.attn.Wqkv", QKV_ROWS),
        "blocks.{i}.attention.to_out": f"{LAYER}.attn.out_proj",
        "blocks.{i}.norm_mlp": f"{LAYER}.norm_2",
        "blocks.{i}.mlp.up": f"{LAYER}.ffn.up_proj",
        "blocks.{i}.mlp.down": f"{LAYER}.ffn.down_proj",
        "norm": "transformer.norm_f",
        "head": "lm_head",
    },
    n_layers="n_layers",
    prefix="transformer.",
)
