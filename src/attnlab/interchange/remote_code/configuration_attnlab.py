"""The settings of a model trained with attnlab, for transformers."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig


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
        self.model, self.attention, self.embed = dict(model or {}), dict(attention or {}), dict(embed or {})
        super().__init__(**others)
        self.vocab_size, self.seed = vocab_size, seed
        # By the names that other tools read.
        self.tie_word_embeddings = self.model.get("tie", True)
        self.hidden_size, self.num_hidden_layers = self.model.get("d_model"), self.model.get("n_layers")
        self.num_attention_heads, self.max_position_embeddings = self.model.get("n_heads"), self.model.get("context")
        self.use_cache = others.get("use_cache", True)
