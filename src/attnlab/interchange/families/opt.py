"""OPT (arXiv 2205.01068) and BioGPT (arXiv 2210.10341): positions are learned, the first in the third row."""

from dataclasses import dataclass
from typing import Any

from attnlab.interchange.families.family import Family
from attnlab.interchange.families.gpt2 import LAYER_NORM
from attnlab.interchange.families.keys_of_config import FLAG, NOPE, Choice, Key, Must, Reading, Same, Several, Unused
from attnlab.interchange.families.llama import ATTENTION, UNGATED
from attnlab.interchange.families.model_settings import HOME, ModelSettings
from attnlab.options.rules import COUNT

LAYER = "model.decoder.layers.{i}"


@dataclass(frozen=True)
class WidthOfEmbeddings(Key):
    """A width of the embeddings apart from the model's, which ours do not have."""

    theirs: str = "word_embed_proj_dim"

    def read(self, reading: Reading, settings: ModelSettings) -> None:
        width = settings.model["d_model"]
        if reading.get(self.theirs) not in (None, width):
            problem = f"cannot be expressed: only {width}, the model's width, can"
            raise reading.refused(self.theirs, reading.get(self.theirs), problem)

    def write(self, settings: ModelSettings, content: dict[str, Any]) -> None:
        content[self.theirs] = settings.model["d_model"]


@dataclass(frozen=True)
class RootOfWidth(Key):
    """A flag: embeddings are multiplied by the root of the model's width."""

    theirs: str
    default: bool

    def read(self, reading: Reading, settings: ModelSettings) -> None:
        if reading.checked(self.theirs, self.default, FLAG):
            settings.model["embed_scale"] = settings.model["d_model"] ** 0.5

    def write(self, settings: ModelSettings, content: dict[str, Any]) -> None:
        content[self.theirs] = settings.model.get("embed_scale", 1.0) != 1.0


OPT = Family(
    model_type="opt",
    architecture="OPTForCausalLM",
    model={**LAYER_NORM, "norm_eps": 1e-5},
    attention={**ATTENTION, "position": NOPE},
    embed={"_target_": f"{HOME}embedding.LearnedEmbedding", "_partial_": True, "offset": 2},
    keys=(
        Same("vocab_size", "vocab_size", default=50272),
        Same("hidden_size", "model.d_model", default=768),
        Same("max_position_embeddings", "model.context", default=2048),
        Several("num_attention_heads", ("attention.n_heads", "model.n_heads"), COUNT, 12),
        Same("ffn_dim", "model.mlp_width", default=3072),
        Choice("activation_function", "model.mlp", UNGATED, "relu"),
        Several("enable_bias", ("model.bias", "attention.qkv_bias", "attention.out_bias"), FLAG, True),
        Several("layer_norm_elementwise_affine", ("model.norm_gain", "model.norm_bias"), FLAG, True),
        Same("tie_word_embeddings", "model.tie", FLAG, True),
        Must("do_layer_norm_before", (True,)),
        Must("_remove_final_layer_norm", (False,)),
        Unused(("init_std", "layerdrop")),
        WidthOfEmbeddings(),
    ),
    tensors={
        "embedding": "model.decoder.embed_tokens",
        "embed.table": "model.decoder.embed_positions",
        "blocks.{i}.norm_attention": f"{LAYER}.self_attn_layer_norm",
        **{f"blocks.{{i}}.attention.qkv.to_{name}": f"{LAYER}.self_attn.{name}_proj" for name in "qkv"},
        "blocks.{i}.attention.to_out": f"{LAYER}.self_attn.out_proj",
        "blocks.{i}.norm_mlp": f"{LAYER}.final_layer_norm",
        "blocks.{i}.mlp.up": f"{LAYER}.fc1",
        "blocks.{i}.mlp.down": f"{LAYER}.fc2",
        "norm": "model.decoder.final_layer_norm",
        "head": "lm_head",
    },
)
BIOGPT_LAYER = "biogpt.layers.{i}"
BIOGPT = OPT.but(
    "biogpt",
    "BioGptForCausalLM",
    [
        Same("vocab_size", "vocab_size", default=42384),
        Same("hidden_size", "model.d_model", default=1024),
        Same("max_position_embeddings", "model.context", default=1024),
        Several("num_attention_heads", ("attention.n_heads", "model.n_heads"), COUNT, 16),
        Same("intermediate_size", "model.mlp_width", default=4096),
        Choice("hidden_act", "model.mlp", UNGATED, "gelu"),
        Must("ffn_dim", (None,)),
        Must("activation_function", (None,)),
        Must("enable_bias", (True,)),
        Must("layer_norm_elementwise_affine", (True,)),
        Must("word_embed_proj_dim", (None,)),
        Unused(("layerdrop", "layer_norm_eps")),  # its norms keep torch's 1e-5, whatever stands there
        RootOfWidth("scale_embedding", True),
    ],
    model={**LAYER_NORM, "norm_eps": 1e-5, "bias": True},
    attention={**ATTENTION, "position": NOPE, "qkv_bias": True, "out_bias": True},
    tensors={
        ours: theirs.replace(LAYER, BIOGPT_LAYER).replace("model.decoder.", "biogpt.")
        for ours, theirs in OPT.tensors.items()
        if isinstance(ours, str) and isinstance(theirs, str)
    }
    | {"norm": "biogpt.layer_norm", "head": "output_projection"},
    prefix="biogpt.",
)
