"""The settings of a model trained with attnlab, for transformers."""

import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from transformers import PreTrainedConfig

# By what this file imports, transformers tells folders of one name apart; else the second would get the first's model.
from .attnlab_source import SOURCES as SOURCES  # noqa: TID252


def _tell_transformer_lens() -> None:
    """Let TransformerLens, where it is in use and attnlab is installed, know its adapter: entry points do not reach the
    list that its `boot` looks into."""
    factory = sys.modules.get("transformer_lens.factories.architecture_adapter_factory")
    architectures = getattr(factory, "SUPPORTED_ARCHITECTURES", {})
    for point in entry_points(group="transformer_lens.architectures") if factory is not None else ():
        if point.name == "AttnlabForCausalLM" and point.name not in architectures:
            architectures[point.name] = point.load()


class AttnlabConfig(PreTrainedConfig):
    """`model` holds the sizes, `attention` and `embed` the classes of the layers and of what enters them, with their
    options, as the config.yaml of the run did; `seed` draws start values where there is no checkpoint."""

    model_type = "attnlab"
    keys_to_ignore_at_inference = ["cache", "past_key_values"]

    def __init__(
        self,
        model: Mapping[str, Any] | None = None,
        attention: Mapping[str, Any] | None = None,
        embed: Mapping[str, Any] | None = None,
        vocab_size: int = 1,
        seed: int = 0,
        **others: Any,
    ) -> None:
        _tell_transformer_lens()
        self.model, self.attention, self.embed = dict(model or {}), dict(attention or {}), dict(embed or {})
        super().__init__(**others)
        self.vocab_size, self.seed = vocab_size, seed
        # By the names that other tools read.
        self.tie_word_embeddings = self.model.get("tie", True)
        self.hidden_size, self.num_hidden_layers = self.model.get("d_model"), self.model.get("n_layers")
        self.num_attention_heads, self.max_position_embeddings = self.model.get("n_heads"), self.model.get("context")
        self.use_cache = others.get("use_cache", True)
