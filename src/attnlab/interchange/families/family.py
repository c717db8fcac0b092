"""A type of model of others: how its config.json and its tensors are ours under other names."""

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from attnlab.config.run_config import Node
from attnlab.errors import UsageError, shown
from attnlab.interchange.families.keys_of_config import Key, Reading, Same, is_ignored
from attnlab.interchange.families.model_settings import NO_EMBEDDING, ModelSettings, normal, put_in
from attnlab.interchange.families.transforms import SAME, Transform
from attnlab.interchange.hf_folder import TensorHeader
from attnlab.options.rules import Rule

MOST_LAYERS = 10_000
Names = str | tuple[str, ...]
Table = Mapping[Names, tuple[Names, Transform] | str | Callable[[Any], str]]


class Link(NamedTuple):
    """Tensors of ours and of theirs that hold the same numbers, and the attention of their layer."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    transform: Transform
    attention: Any


@dataclass(frozen=True)
class Family:
    """One type of model.

    `model`, `attention` and `embed` are what all models of the type have in common, `keys` what their config.json says.
    `tensors` maps names of ours to names of theirs, {i} standing for the layer, * for any number; a name stands for a
    module, too: for its weight and its bias; a function of the block gives a name that depends on it, or none. `unused`
    are patterns of tensors that hold nothing learned.
    """

    model_type: str
    architecture: str
    model: Mapping[str, Any]
    attention: Node
    keys: Sequence[Key]
    tensors: Table
    n_layers: str = "num_hidden_layers"
    prefix: str = "model."  # of all names but the head's, which a model saved without its head does not have
    also: Mapping[str, str] = field(default_factory=dict)  # names of theirs, and what other versions call them
    aliases: Mapping[str, str] = field(default_factory=dict)  # other names of keys, and the names that are read
    embed: Node = field(default_factory=lambda: copy.deepcopy(NO_EMBEDDING))
    unused: Sequence[str] = (r".*rotary_emb\.inv_freq",)

    def but(self, model_type: str, architecture: str, keys: Sequence[Key] = (), **changes: Any) -> "Family":
        """A type that differs in some things: keys that are given stand in the place of those with the same name."""
        named = [[key.theirs] if isinstance(key.theirs, str) else key.theirs for key in keys]
        names = {name for each in named for name in each}
        rest = [key for key in self.keys if key.theirs not in names]
        return replace(self, model_type=model_type, architecture=architecture, keys=(*rest, *keys), **changes)

    # Settings.

    def settings(self, config: Mapping[str, Any], source: str) -> ModelSettings:
        """Our settings of a model with this config.json. Raises UsageError for what cannot be expressed."""
        reading = Reading({self.aliases.get(key, key): value for key, value in config.items()}, source)
        n_layers = reading.checked(self.n_layers, None, Rule(int, least=1, most=MOST_LAYERS))
        settings = ModelSettings(
            model=copy.deepcopy(dict(self.model)),
            layers=[copy.deepcopy(dict(self.attention)) for _ in range(n_layers)],
            embed=copy.deepcopy(dict(self.embed)),
        )
        for key in self.keys:
            key.read(reading, settings)
        reading.check_all_read()
        return settings

    def config_json(self, settings: ModelSettings) -> dict[str, Any]:
        """The config.json of a model with our settings, as far as it can say them."""
        config: dict[str, Any] = {"architectures": [self.architecture], "model_type": self.model_type}
        put_in(config, self.n_layers, len(settings.layers))
        for key in self.keys:
            key.write(settings, config)
        return config

    def config_like(self, settings: ModelSettings, origin: Mapping[str, Any]) -> dict[str, Any]:
        """The config.json of a model that was read with the config.json `origin`: the same where it still says it all.

        Else, what it said beside our settings, and of how many tokens the model was made for, it says again.
        """
        with suppress(UsageError):
            if normal(self.settings(origin, self.model_type)) == normal(settings):
                return dict(origin)
        config = self.config_json(settings)
        lengths = {key.theirs for key in self.keys if isinstance(key, Same) and key.ours == "model.context"}
        beside = {key: value for key, value in origin.items() if key not in config and is_ignored(key)}
        return config | beside | {key: max(config[key], origin.get(key, 0)) for key in lengths}

    def fits(self, settings: ModelSettings) -> bool:
        """Whether a model of this type can have these settings: what its config.json says of them is all of them."""
        try:
            again = self.settings(self.config_json(settings), self.model_type)
            return normal(again) == normal(settings)
        except (UsageError, KeyError, IndexError, TypeError, AttributeError):
            return False

    # Tensors.

    def links(self, model: nn.Module) -> list[Link]:
        """Which tensors of a GPT of ours are which of theirs; a tied head is the embedding, and none of its own."""
        names = {name for name, _ in model.named_parameters()}  # a tied head is not among them
        blocks: Any = model.get_submodule("blocks")
        links = []
        for pattern, entry in self.tensors.items():
            target, transform = entry if isinstance(entry, tuple) else (entry, SAME)
            ours = (pattern,) if isinstance(pattern, str) else pattern
            for i in range(len(blocks)) if "{i}" in ours[0] else (None,):
                names_there = target(blocks[i or 0]) if callable(target) else target
                if not names_there:
                    continue
                theirs = (names_there,) if isinstance(names_there, str) else names_there
                attention = None if i is None else blocks[i].attention
                for leaf in ("", ".weight", ".bias"):
                    own = [_match(f"{name}{leaf}", i, names) for name in ours]
                    if all(own):
                        named = tuple(f"{name}{leaf}".replace("{i}", str(i)) for name in theirs)
                        links.append(Link(tuple(map(str, own)), named, transform, attention))
        named_ours = [name for link in links for name in link.ours]
        if sorted(named_ours) != sorted(names):
            apart = names.symmetric_difference(named_ours)
            raise UsageError(f"{self.model_type} has no tensor for {', '.join(sorted(apart)[:3])}")
        return links

    def name_in(self, name: str, names: Mapping[str, Any]) -> str:
        """A name of theirs as a file has it: a model that was saved without its head lacks the first part."""
        number = re.search(r"\.(\d+)\.", name)
        pattern = name if number is None else name.replace(number[0], ".{i}.", 1)
        other = self.also.get(pattern, name)
        others = (name.removeprefix(self.prefix), other if number is None else other.replace("{i}", number[1]))
        return next((each for each in (name, *others) if each in names), name)

    def check(self, links: Sequence[Link], model: nn.Module, headers: Mapping[str, TensorHeader], source: str) -> None:
        """Refuse headers of files that lack a tensor, hold one too many, or one of another shape."""
        parameters = dict(model.named_parameters())
        shapes: dict[str, tuple[int, ...]] = {}
        for link in links:
            with torch.device("meta"):
                empty = [torch.empty(parameters[name].shape) for name in link.ours]
                shapes |= {
                    self.name_in(name, headers): tuple(t.shape)
                    for name, t in zip(link.theirs, link.transform.theirs(empty, link.attention), strict=True)
                }
        for name, shape in shapes.items():
            if name not in headers:
                raise UsageError(f"{source} holds no tensor {name}, which its config asks for")
            if headers[name].shape != shape:
                raise UsageError(f"{source}: {name} is {headers[name].shape}, and its config asks for {shape}")
        for name in headers:
            if name not in shapes and not self.is_unused(name) and name not in self.tied_names(model):
                raise UsageError(f"{source} holds a tensor {name}, for which its config has no use")

    def is_unused(self, name: str) -> bool:
        """Whether a tensor holds nothing learned."""
        return any(re.fullmatch(pattern, name) for pattern in self.unused)

    def tied_names(self, model: nn.Module) -> tuple[str, ...]:
        """What a tied head may be called, where a file repeats the embedding."""
        is_tied = model.get_submodule("head").weight is model.get_submodule("embedding").weight
        head = self.tensors["head"]
        return (f"{head}.weight",) if is_tied else ()

    def tensors_of(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """The tensors of a GPT of ours by their names, in their order of numbers; views where that is possible."""
        parameters = dict(model.named_parameters())
        for link in self.links(model):
            own = [parameters[name].detach() for name in link.ours]
            yield from zip(link.theirs, link.transform.theirs(own, link.attention), strict=True)


def _match(pattern: str, layer: int | None, names: set[str]) -> str | None:
    name = pattern.replace("{i}", str(layer))
    if "*" not in name:
        return name if name in names else None
    rule = re.compile(re.escape(name).replace(r"\*", r"\d+"))
    return next((each for each in sorted(names) if rule.fullmatch(each)), None)


def refused_type(source: str, model_type: Any, types: Sequence[str]) -> UsageError:
    """The complaint about a type of model that is not among those that can be read."""
    among = f"is not among those that can be read: {', '.join(types)}"
    return UsageError(f"{source}: model_type ({shown(model_type)[:60]}) {among}")
