"""From a checked config to objects: the one place where a `_target_` becomes a class."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from attnlab.attention.base import AttentionFactory
from attnlab.errors import UsageError
from attnlab.model import GPT
from attnlab.position import Embedding

Config = Mapping[str, Any]  # a composed config as plain dicts, lists and numbers, after `config.check`


def made(config: Config, group: str) -> Any:
    """What a group of the config describes: an object, or a factory if it says `_partial_`."""
    node: Any = config
    for part in group.split("."):
        node = node[part]
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UsageError):
            raise cause from error
        raise UsageError(f"{group}: {_reason(cause or error)}") from error


def attention_factory(config: Config) -> AttentionFactory:
    """The factory of the attention, called once per layer as factory(d_model, layer=, n_layers=, context=)."""
    factory: AttentionFactory = made(config, "attention")
    return factory


def embedding_factory(config: Config) -> Callable[..., Embedding]:
    """The factory of what a position adds to the token embeddings."""
    factory: Callable[..., Embedding] = made(config, "position.embed")
    return factory


def build_model(config: Config, vocab_size: int) -> GPT:
    """The model of a config, with its initial values; on the meta device where that is torch's default."""
    sizes = {key: value for key, value in config["model"].items() if key != "n_heads"}  # n_heads: the attention's
    try:
        return GPT(
            vocab_size=vocab_size,
            attention=attention_factory(config),
            embed=embedding_factory(config),
            seed=config["streams"]["init"],
            **sizes,
        )
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise UsageError(_reason(error)) from error  # an argument that a class does not take, or one it lacks


def check_construction(config: Config) -> None:
    """Build everything once without numbers, so that what only a constructor can refuse is refused early."""
    with torch.device("meta"):
        build_model(config, vocab_size=2)


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())
