"""Our settings of a model, as far as they change a number: what a config.json is translated into, and back."""

import copy
import importlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from attnlab.attention.norm import EPS, LAYER_EPS
from attnlab.config.run_config import Node, RunConfig
from attnlab.errors import UsageError
from attnlab.options import options_of, settable
from attnlab.options.model_config import ModelConfig

HOME = "attnlab.attention."
LAYERED = f"{HOME}head_wrapper.layered"
NO_EMBEDDING: Node = {"_target_": f"{HOME}embedding.NoEmbedding", "_partial_": True}
UNUSED = ("n_heads", "dropout", "init", "mlp_ratio", "context")  # of a model: change no number, or follow from others
NORM_EPS = {"rms": EPS, "layer": LAYER_EPS}
KINDS = ("full", "local", "third", "fourth")  # what kinds of layers are called, in the order in which they come


@dataclass
class ModelSettings:
    """The parts of a GPT by what stands in a config; `layers` holds the attention of each, its position within."""

    model: dict[str, Any]
    layers: list[Node] = field(default_factory=list)
    embed: Node = field(default_factory=lambda: copy.deepcopy(NO_EMBEDDING))
    vocab_size: int = 0

    def get(self, path: str) -> Any:
        """What stands at model.x, at attention.x (of the first layer), embed.x, or vocab_size; None if nothing does."""
        node: Any = self._home(path.partition(".")[0])
        for part in path.split(".")[1:]:
            node = node[int(part)] if isinstance(node, list) else node.get(part) if isinstance(node, Mapping) else None
        return node

    @property
    def head_dim(self) -> int:
        """Width of a head of the first layer."""
        node = self.layers[0]
        return int(node.get("head_dim") or self.model["d_model"] // node["n_heads"])

    def _home(self, name: str) -> Any:
        homes = {"model": self.model, "attention": self.layers[0] if self.layers else {}, "embed": self.embed}
        return homes.get(name, self.vocab_size)

    def put(self, path: str, value: Any) -> None:
        """Set what stands there; of attention in every layer."""
        first, _, rest = path.partition(".")
        if first == "vocab_size":
            self.vocab_size = value
        for node in {"model": [self.model], "embed": [self.embed], "attention": self.layers}.get(first, []):
            put_in(node, rest, value)

    def nodes(self) -> dict[str, Any]:
        """The groups of a config: model, attention and position."""
        model = {"n_layers": len(self.layers), **self.model}
        return {"model": model, "attention": self._attention(), "position": self._position()}

    def _position(self) -> dict[str, Node]:
        """What position= would say: that of the layers which have one."""
        inside = [layer["position"] for layer in self.layers if "position" in layer]
        moving = [node for node in inside if not node["_target_"].endswith(".NoPE")]
        none = {"_target_": f"{HOME}position.NoPE", "_partial_": True}
        return {"embed": self.embed, "inside": (moving or inside or [none])[0]}

    def _attention(self) -> Node:
        """One node where all layers are alike, else one for each kind of them, and which stands where."""
        kinds: list[Node] = []
        for layer in self.layers:
            if layer not in kinds:
                kinds.append(layer)
        if len(kinds) == 1:
            return kinds[0]
        names = [KINDS[i] if i < len(KINDS) else f"kind_{i}" for i in range(len(kinds))]
        pattern = [names[kinds.index(layer)] for layer in self.layers]
        period = next(n for n in range(1, len(pattern) + 1) if all(p == pattern[i % n] for i, p in enumerate(pattern)))
        return {
            "_target_": LAYERED,
            "_partial_": True,
            "pattern": " ".join(pattern[:period]),
            "kinds": dict(zip(names, kinds, strict=True)),
        }


def put_in(node: Any, path: str, value: Any) -> None:
    """Set what stands at a dotted path of nested settings."""
    *owners, last = path.split(".")
    for owner in owners:
        node = node[int(owner)] if isinstance(node, list) else node.setdefault(owner, {})
    node[last] = value


def settings_of_run(config: RunConfig, vocab_size: int) -> ModelSettings:
    """The settings of one of our runs, the attention of each layer written out."""
    attention, n_layers = config.attention, config.model.n_layers
    if attention.get("_target_") == LAYERED:
        names = attention["pattern"].split()
        layers = [copy.deepcopy(attention["kinds"][names[i % len(names)]]) for i in range(n_layers)]
    else:
        layers = [copy.deepcopy(attention) for _ in range(n_layers)]
    model = {key: value for key, value in asdict(config.model).items() if key != "n_layers"}
    return ModelSettings(model, layers, copy.deepcopy(config.position.embed), vocab_size)


def spelled_out(settings: ModelSettings) -> ModelSettings:
    """The same settings, with numbers in the place of nulls that stand for what follows from others."""
    config = ModelConfig(**{"n_layers": len(settings.layers), **settings.model})
    numbers = {"mlp_width": config.hidden, "norm_eps": config.norm_eps or NORM_EPS[config.norm]}
    layers = copy.deepcopy(settings.layers)
    for layer in layers:
        if "n_heads" in layer:
            layer["n_kv_heads"] = layer.get("n_kv_heads") or layer["n_heads"]
            layer["head_dim"] = layer.get("head_dim") or config.d_model // layer["n_heads"]
    return ModelSettings({**settings.model, **numbers}, layers, copy.deepcopy(settings.embed), settings.vocab_size)


def normal(settings: ModelSettings) -> ModelSettings:
    """The same settings with every default written out, without those that change no number: equal for equal models."""
    config = ModelConfig(**{"n_layers": len(settings.layers), **settings.model})
    model = {key: value for key, value in asdict(config).items() if key not in (*UNUSED, "n_layers")}
    if settings.embed["_target_"] != NO_EMBEDDING["_target_"]:
        model["context"] = config.context  # as many positions as the table has
    model |= {"mlp_width": config.hidden, "norm_eps": config.norm_eps or NORM_EPS[config.norm]}
    layers = [_normal_layer(layer, config) for layer in settings.layers]
    return ModelSettings(model, layers, _normal_node(settings.embed), settings.vocab_size)


def _normal_layer(layer: Node, config: ModelConfig) -> Node:
    node = _normal_node(layer)
    node.pop("dropout", None)
    if "n_heads" in node:
        node["n_kv_heads"] = node.get("n_kv_heads") or node["n_heads"]
        node["head_dim"] = node.get("head_dim") or config.d_model // node["n_heads"]
        node["value_dim"] = node.get("value_dim") or node["head_dim"]
    return node


def _normal_node(node: Any) -> Any:
    """A class and its settings with all defaults; of several by name, in the order of their classes."""
    if not _is_class(node):
        if isinstance(node, Mapping) and all(map(_is_class, node.values())):  # by names that only tell them apart
            return sorted(map(_normal_node, node.values()), key=lambda part: str(part["_target_"]))
        return node
    target = _class_of(node["_target_"])
    every = {name: o.default for name, o in settable(options_of(target) or {}).items()}
    slots = {name: _default_node(value) for name, value in every.items()}
    own = {name: _normal_node(value) for name, value in node.items() if name != "_partial_"}
    whole = {**slots, **own}
    if "eps" in whole and whole["eps"] is None and whole.get("kind") in NORM_EPS:
        whole["eps"] = NORM_EPS[whole["kind"]]
    return whole


def _is_class(node: Any) -> bool:
    return isinstance(node, Mapping) and "_target_" in node


def _class_of(name: str) -> Any:
    module, _, last = name.rpartition(".")
    if not name.startswith(HOME):
        raise UsageError(f"{name} is no class of attnlab")
    return getattr(importlib.import_module(module), last)


def _default_node(value: Any) -> Any:
    """The default of a slot as a node: a class, or a class and its settings."""
    if isinstance(value, type):
        return _normal_node({"_target_": f"{value.__module__}.{value.__qualname__}"})
    if isinstance(value, Mapping):
        return sorted((_default_node(each) for each in value.values()), key=lambda part: str(part["_target_"]))
    inner = getattr(value, "func", None)
    if isinstance(inner, type):
        return _normal_node({"_target_": f"{inner.__module__}.{inner.__qualname__}", **value.keywords})
    return value
