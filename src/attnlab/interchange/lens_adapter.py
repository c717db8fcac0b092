"""TransformerLens opens exported folders: hooks at the blocks, and at the map of every layer, read or replaced.

TransformerLens finds `AttnlabAdapter` by the entry point of attnlab's distribution. `hook_pattern` is the map A of
o = A v, (b, heads, t, s), of every variant that has one: probabilities where the variant's are, weights of any sign
where a memory implies them.
"""

from typing import Any

from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter
from transformer_lens.model_bridge.generalized_components import BlockBridge, EmbeddingBridge, UnembeddingBridge
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent

FORKS = ("attn.hook_attn_in", "attn.hook_q_input", "attn.hook_k_input", "attn.hook_v_input")


class MixerHooks(GeneralizedComponent):
    """A layer of attention: its input, its output, and its map, which passes through the module `map`."""

    hook_aliases = {"hook_pattern": "map.hook_out"}


class BlockHooks(BlockBridge):
    """A block, without names for the input of queries, keys and values, which not every variant has apart."""

    hook_aliases = {name: to for name, to in BlockBridge.hook_aliases.items() if not str(to).startswith(FORKS)}


class AttnlabAdapter(ArchitectureAdapter):
    """Where the parts of AttnlabForCausalLM stand. Norms and MLPs compute as they are: weights are not folded."""

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        self.cfg.default_prepend_bos = False
        parts = {"ln1": "norm_attention", "ln2": "norm_mlp", "mlp": "mlp"}
        hooks: dict[str, Any] = {name: GeneralizedComponent(name=where, optional=True) for name, where in parts.items()}
        hooks["attn"] = MixerHooks(
            name="attention", submodules={"map": GeneralizedComponent(name="map", optional=True)}
        )
        self.component_mapping = {
            "embed": EmbeddingBridge(name="model.embedding"),
            "blocks": BlockHooks(name="model.blocks", submodules=hooks),
            "ln_final": GeneralizedComponent(name="model.norm"),
            "unembed": UnembeddingBridge(name="model.head"),
        }
