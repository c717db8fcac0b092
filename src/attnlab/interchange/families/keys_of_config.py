"""What a key of a config.json is among our settings: read one way on import, the other way on export."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

from attnlab.errors import UsageError, shown
from attnlab.interchange.families.model_settings import HOME, ModelSettings, put_in
from attnlab.options.rules import COUNT, POSITIVE, Rule, refusal

REQUIRED: Any = object()
FLAG = Rule(bool)
SHARE = Rule(float, above=0, most=1)
COUNT_OR_NULL, POSITIVE_OR_NULL = Rule(int, least=1, optional=True), Rule(float, above=0, optional=True)
# What changes no number of a model that is evaluated.
IGNORED = (
    *("model_type", "architectures", "auto_map", "torch_dtype", "dtype", "transformers_version", "_*", "*_token_id"),
    *("*dropout*", "*_pdrop", "*_prob", "summary_*", "initializer_*", "*_initializer_range", "use_cache"),
    *("output_attentions", "output_hidden_states", "output_past", "return_dict*", "use_return_dict", "id2label"),
    *("label2id", "num_labels", "problem_type", "tokenizer_class", "prefix", "task_specific_params", "torchscript"),
    *("tf_legacy_loss", "use_bfloat16", "bad_words_ids", "finetuning_task", "gradient_checkpointing"),
    *(
        "pretraining_tp",
        "chunk_size_feed_forward",
        "sep_token_id",
        "is_decoder",
        "use_flash_attn",
        "attn_implementation",
    ),
    *("max_length", "min_length", "do_sample", "early_stopping", "num_beams*", "temperature", "top_k", "top_p"),
    *("typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
    *("diversity_penalty", "num_return_sequences", "forced_*", "remove_invalid_values", "exponential_decay_*"),
    *("suppress_tokens", "begin_suppress_tokens", "unsloth_*", "reuse_cache", "init_device", "router_*"),
    "mrope_*",  # of pictures: a text's positions are one
    *("is_llama_config", "js_config"),  # the latter of transformers.js
)
# What must stand there, if anything does, in every config.json.
PLAIN: Mapping[str, tuple[Any, ...]] = {
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,),
    "quantization_config": (None,),
    "pruned_heads": (None, {}),
    "tie_encoder_decoder": (False,),
    "use_mrope": (False,),
    "rope_interleaved": (False,),
}


class Reading:
    """A config.json of which every key is to be accounted for."""

    def __init__(self, config: Mapping[str, Any], source: str) -> None:
        self.config, self.source = config, source
        self.paths: set[str] = set()

    def get(self, path: str, default: Any = None) -> Any:
        """What stands at a dotted path."""
        self.paths.add(path)
        node: Any = self.config
        for part in path.split("."):
            if not isinstance(node, Mapping) or part not in node:
                return default
            node = node[part]
        return node

    def checked(self, path: str, default: Any, rule: Rule) -> Any:
        """What stands there, or the default; refused if it breaks the rule."""
        value = self.get(path, default)
        if value is REQUIRED:
            raise self.refused(path, None, "is missing")
        if not rule.accepts(value):
            raise UsageError(f"{self.source}: {refusal(path, value, rule)}")
        return value

    def refused(self, path: str, value: Any, problem: str) -> UsageError:
        """The complaint about a key."""
        return UsageError(f"{self.source}: {path} ({shown(value)[:100]}) {problem}")

    def check_all_read(self) -> None:
        """Refuse a key that nothing has read and that could change a number."""
        for path, value in _leaves(self.config):
            parts = path.split(".")
            above = {".".join(parts[: i + 1]) for i in range(len(parts))}
            if above & self.paths or any(map(is_ignored, parts)):
                continue
            if value in PLAIN.get(parts[-1], ()):
                continue
            raise self.refused(path, value, "is not understood, so the model could not be the same")


def is_ignored(key: str) -> bool:
    """Whether a key changes no number, whatever stands there."""
    return any(fnmatch(key, pattern) for pattern in IGNORED)


def _leaves(node: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(node, Mapping):
        return [leaf for k, v in node.items() for leaf in _leaves(v, f"{path}.{k}" if path else str(k))]
    return [(path, node)] if path else []


class Key(ABC):
    """A key, or a few that belong together, of a config.json; `theirs` names it, or the first of them."""

    theirs: Any

    @abstractmethod
    def read(self, reading: Reading, settings: ModelSettings) -> None:
        """From theirs to ours."""

    def write(self, settings: ModelSettings, content: dict[str, Any]) -> None:  # noqa: B027
        """From ours to theirs, if anything is to be said; what cannot be said is noticed when it is read again."""


@dataclass(frozen=True)
class Same(Key):
    """The same value under another name."""

    theirs: str
    ours: str
    rule: Rule = COUNT
    default: Any = REQUIRED

    def read(self, reading: Reading, settings: ModelSettings) -> None:
        settings.put(self.ours, reading.checked(self.theirs, self.default, self.rule))

    def write(self, settings: ModelSettings, content: dict[str, Any]) -> None:
        value = settings.get(self.ours)
        if value is not None or self.default is not None:  # some programs take null for a number
            put_in(content, self.theirs, value)


@dataclass(frozen=True)
class Several(Key):
    """One value of theirs for several of ours, the first of which is read back."""

    theirs: str
    ours: Sequence[str]
    rule: Rule = FLAG
    default: Any = REQUIRED

    def read(self, reading: Reading, settings: ModelSettings) -> None:
        value = reading.checked(self.theirs, self.default, self.rule)
        for path in self.ours:
            settings.put(path, value)

    def write(self, settings: ModelSettings, content: dict[str, Any]) -> None:
        put_in(content, self.theirs, settings.get(self.ours[0]))


@dataclass(frozen=True)
class Choice(Key):
    """A word of theirs for a value of ours."""

    theirs: str
    ours: str
    values: Mapping[Any, Any]
    default: Any = REQUIRED

    def read(self, reading: Reading, settings: ModelSettings) -> None:
        value = reading.get(self.theirs, self.default)
        if value is REQUIRED or not isinstance(value, str | bool | int | float | None) or value not in self.values:
            allowed = ", ".join(map(shown, self.values))
            raise reading.refused(self.theirs, None if value is REQUIRED else value, f"must be among: {allowed}")
        settings.put(self.ours, copy.deepcopy(self.values[value]))

    def write(self, settings: ModelSettings, content: dict[str, Any]) -> None:
        value = settings.get(self.ours)
        put_in(content, self.theirs, next((k for k, v in self.values.items() if v == value), None))


@dataclass(frozen=True)
class Must(Key):
    """A key that is only understood at some values; the first of them is what its absence means."""

    theirs: str
    values: tuple[Any, ...]

    def read(self, reading: Reading, settings: ModelSettings) -> None:
        value = reading.get(self.theirs, self.values[0])
        if not any(
            value == allowed and isinstance(value, bool) == isinstance(allowed, bool) for allowed in self.values
        ):
            allowed = " or ".join(map(shown, self.values))
            raise reading.refused(self.theirs, value, f"cannot be expressed: only {allowed} can")


@dataclass(frozen=True)
class Implied(Key):
    """A count that follows from others, which must be what it is there, or absent."""

    theirs: str
    rule: Callable[[ModelSettings], int]

    def read(self, reading: Reading, settings: ModelSettings) -> None:
        value, implied = reading.checked(self.theirs, None, COUNT_OR_NULL), self.rule(settings)
        if value not in (None, implied):
            raise reading.refused(self.theirs, value, f"cannot be expressed: only {implied} can, as the others are")

    def write(self, settings: ModelSettings, content: dict[str, Any]) -> None:
        put_in(content, self.theirs, self.rule(settings))


@dataclass(frozen=True)
class Unused(Key):
    """Keys that change no number of this type of model."""

    theirs: Sequence[str]

    def read(self, reading: Reading, settings: ModelSettings) -> None:
        for path in self.theirs:
            reading.get(path)


def rotary(kind: str, **settings: Any) -> dict[str, Any]:
    """The node of a rotary position."""
    return {"_target_": f"{HOME}rotary.{kind}", "_partial_": True, **settings}


NOPE = {"_target_": f"{HOME}position.NoPE", "_partial_": True}
CAUSAL = {"_target_": f"{HOME}mask.Causal", "_partial_": True}


def window(size: int) -> dict[str, Any]:
    """The node of a mask that shows so many last keys."""
    return {"_target_": f"{HOME}mask.Window", "_partial_": True, "window": size}


# How a type of rotation is called, and what its numbers are called: theirs, ours, default.
SCALINGS: Mapping[str, tuple[str, Sequence[tuple[str, str, Any]]]] = {
    "default": ("RoPE", ()),
    "linear": ("LinearRoPE", (("factor", "factor", REQUIRED),)),
    "llama3": (
        "Llama3RoPE",
        (
            ("factor", "factor", REQUIRED),
            ("low_freq_factor", "low_freq_factor", REQUIRED),
            ("high_freq_factor", "high_freq_factor", REQUIRED),
            ("original_max_position_embeddings", "original_context", None),
        ),
    ),
    "yarn": (
        "YaRN",
        (
            ("factor", "factor", REQUIRED),
            ("original_max_position_embeddings", "original_context", None),
            ("beta_fast", "beta_fast", 32.0),
            ("beta_slow", "beta_slow", 1.0),
            ("mscale", "mscale", None),
            ("mscale_all_dim", "mscale_all_dim", None),
            ("attention_factor", "attention_factor", None),
            ("truncate", "truncate", True),
        ),
    ),
}
FIXED = {"yarn": {"ramp": "pairs"}}


@dataclass(frozen=True)
class Rope(Key):
    """The rotation of queries and keys: rope_parameters, or rope_theta and rope_scaling as older files have them."""

    base: float = 10000.0
    fraction: float = 1.0
    theirs: str = "rope_parameters"
    bases: tuple[str, ...] = ("rope_theta",)  # where older files have the base; the first is written
    fractions: tuple[str, ...] = ("partial_rotary_factor",)
    usual: Mapping[str, Any] = field(default_factory=dict)  # parameters where none are given

    def read(self, reading: Reading, settings: ModelSettings) -> None:
        parameters = reading.get("rope_parameters") or reading.get("rope_scaling") or self.usual
        reading.get("rope_scaling")
        if not isinstance(parameters, Mapping):
            raise reading.refused("rope_parameters", parameters, "must hold settings by name")
        node = self.node(reading, parameters)
        if node["fraction"] < 1 and int(width := settings.head_dim * node["fraction"]) % 2:
            raise reading.refused(self.fractions[0], node["fraction"], f"rotates {width:g} coordinates, which is odd")
        settings.put("attention.position", node)

    def node(self, reading: Reading, given: Mapping[str, Any], base: float | None = None) -> dict[str, Any]:
        """The position that a set of parameters describes."""
        inner = Reading(given, f"{reading.source}: rope_parameters")
        base = self.base if base is None else base
        for name in self.bases:
            base = reading.checked(name, base, POSITIVE)
        base = inner.checked("rope_theta", base, POSITIVE)
        fraction = self.fraction
        for name in self.fractions:
            fraction = reading.checked(name, fraction, SHARE)
        fraction = inner.checked("partial_rotary_factor", fraction, SHARE)
        legacy = inner.get("type", "default")
        kind = inner.get("rope_type", legacy)
        if not isinstance(kind, str) or kind not in SCALINGS:
            raise inner.refused("rope_type", kind, f"cannot be expressed: only {', '.join(SCALINGS)} can")
        name, numbers = SCALINGS[kind]
        node = rotary(name, base=base, fraction=fraction, **FIXED.get(kind, {}))
        for theirs, ours, default in numbers:
            if ours == "original_context":
                default = reading.get(theirs, reading.get("max_position_embeddings"))
                node[ours] = inner.checked(theirs, default, COUNT)
            elif ours == "truncate":
                node[ours] = inner.checked(theirs, default, FLAG)
            else:
                node[ours] = inner.checked(theirs, default, POSITIVE if default is not None else POSITIVE_OR_NULL)
        inner.check_all_read()
        if kind == "yarn" and not node["mscale"]:
            if node["mscale_all_dim"]:
                raise inner.refused("mscale_all_dim", node["mscale_all_dim"], "cannot be expressed without mscale")
        elif kind == "yarn" and not node["mscale_all_dim"]:
            node["mscale"] = None  # which is read beside the other alone
        return node

    def write(self, settings: ModelSettings, content: dict[str, Any]) -> None:
        moving = [node["position"] for node in settings.layers if "base" in node.get("position", {})]
        self.write_node(moving[0] if moving else {}, content)

    def write_node(self, node: Mapping[str, Any], content: dict[str, Any]) -> None:
        """A position as rope_parameters, and as older programs read it."""
        kind = next(
            (k for k, (name, _) in SCALINGS.items() if str(node.get("_target_")).endswith(f".{name}")), "default"
        )
        numbers = {theirs: node.get(ours) for theirs, ours, _ in SCALINGS[kind][1]}
        base, fraction = node.get("base", self.base), node.get("fraction", 1.0)
        scaling = {"rope_type": kind, **{name: value for name, value in numbers.items() if value is not None}}
        content[self.bases[0]] = base
        content["rope_scaling"] = None if kind == "default" else scaling
        partial = {} if fraction == self.fraction == 1 else {"partial_rotary_factor": fraction}
        content |= {self.fractions[0]: fraction} if partial else {}
        content["rope_parameters"] = {"rope_theta": base, **partial, **scaling}


@dataclass(frozen=True)
class Windows(Key):
    """Which layers see a window only: sliding_window, and layer_types or a rule of the type in their place.

    `rule` says, of a layer's number and the config, whether it is local where layer_types does not.
    """

    default: int | None = None
    switch: str | None = None  # the key without which there is no window
    rule: Any = None
    theirs: str = "sliding_window"
    types: str | None = "layer_types"
    ignored: Sequence[str] = field(default_factory=tuple)

    def read(self, reading: Reading, settings: ModelSettings) -> None:
        size = reading.checked(self.theirs, self.default, COUNT_OR_NULL)
        on = self.switch is None or reading.checked(self.switch, False, FLAG)
        local = self._local(reading, len(settings.layers))
        for key in self.ignored:
            reading.get(key)
        for node, is_local in zip(settings.layers, local, strict=True):
            if is_local and size is None:
                raise reading.refused(self.theirs, size, "must be a number of tokens: a layer has a window")
            node["mask"] = window(size) if is_local and on else copy.deepcopy(CAUSAL)

    def _local(self, reading: Reading, n_layers: int) -> list[bool]:
        names = None if self.types is None else reading.get(self.types)
        if names is None:
            is_local = self.rule or (lambda i, reading: reading.get(self.theirs, self.default) is not None)
            return [bool(is_local(i, reading)) for i in range(n_layers)]
        known_names = {"full_attention": False, "sliding_attention": True}
        if not isinstance(names, list) or len(names) < n_layers or not all(name in known_names for name in names):
            raise reading.refused(self.types or "", names, f"must name {' or '.join(known_names)} for every layer")
        return [known_names[name] for name in names[:n_layers]]

    def write(self, settings: ModelSettings, content: dict[str, Any]) -> None:
        sizes = [node["mask"].get("window") for node in settings.layers]
        size = next((each for each in sizes if each is not None), None)
        content[self.theirs] = size
        if self.switch is not None:
            content[self.switch] = size is not None
        if self.types is not None:
            content[self.types] = ["full_attention" if each is None else "sliding_attention" for each in sizes]


@dataclass(frozen=True)
class Added(Key):
    """A key that puts a class among ours where it is true, or where it holds a number that `number` of the class is.

    The key of a flag holds true or false, that of a number null where there is none of the class. `copied` are settings
    of the class that are those at a path of ours.
    """

    theirs: str
    ours: str
    node: Mapping[str, Any]
    number: str | None = None
    default: Any = None
    copied: Mapping[str, str] = field(default_factory=dict)

    def read(self, reading: Reading, settings: ModelSettings) -> None:
        rule = FLAG if self.number is None else POSITIVE_OR_NULL
        value = reading.checked(self.theirs, self.default, rule)
        if value:
            copies = {name: settings.get(path) for name, path in self.copied.items()}
            settings.put(self.ours, {**self.node, **copies, **({} if self.number is None else {self.number: value})})

    def write(self, settings: ModelSettings, content: dict[str, Any]) -> None:
        node = settings.get(self.ours)
        number = None if node is None else node.get(self.number)
        put_in(content, self.theirs, node is not None if self.number is None else number)


@dataclass(frozen=True)
class Derived(Key):
    """A setting of ours that follows from the others."""

    ours: str
    rule: Callable[[ModelSettings], Any]
    theirs: str = ""

    def read(self, reading: Reading, settings: ModelSettings) -> None:
        settings.put(self.ours, self.rule(settings))


@dataclass(frozen=True)
class Through(Key):
    """A number of which ours is a function, and that function's inverse, up to rounding."""

    theirs: str
    ours: str
    function: Callable[[float], float]
    inverse: Callable[[float], float]
    default: Any = REQUIRED

    def read(self, reading: Reading, settings: ModelSettings) -> None:
        settings.put(self.ours, self.function(reading.checked(self.theirs, self.default, POSITIVE)))

    def write(self, settings: ModelSettings, content: dict[str, Any]) -> None:
        value = settings.get(self.ours)
        number = self.inverse(settings.head_dim**-0.5 if value is None else value)
        near = (round(number), round(number, 6), number)
        put_in(content, self.theirs, next((n for n in near if n > 0 and self.function(n) == value), number))


def inverse_root(theirs: str, ours: str, default: Any = REQUIRED) -> Through:
    """A number of which ours is one by its root."""
    return Through(theirs, ours, lambda x: x**-0.5, lambda x: x**-2, default)


def inverse(theirs: str, ours: str, default: Any = REQUIRED) -> Through:
    """A number by which is divided where ours multiplies."""
    return Through(theirs, ours, lambda x: 1 / x, lambda x: 1 / x, default)


@dataclass(frozen=True)
class RopeOfWindows(Rope):
    """A rotation of the layers with a window alone; the others have no position, unless no size of one is given, where
    `all_without` says that they then rotate, too."""

    all_without: bool = False

    def read(self, reading: Reading, settings: ModelSettings) -> None:
        super().read(reading, settings)
        if self.all_without and reading.get("sliding_window", 1) is None:
            return
        for node in settings.layers:
            if "window" not in node["mask"]:
                node["position"] = copy.deepcopy(NOPE)


@dataclass(frozen=True)
class RopeByKind(Rope):
    """A rotation for the layers that see all, another for those with a window: rope_parameters by type of layer, or
    rope_theta and rope_local_base_freq, where rope_scaling is of the former alone."""

    local: float = 10000.0

    def read(self, reading: Reading, settings: ModelSettings) -> None:
        given = reading.get("rope_parameters")
        if not isinstance(given, Mapping) or not {*given} & {"full_attention", "sliding_attention"}:
            given = {"full_attention": given or reading.get("rope_scaling") or {}}
        reading.get("rope_scaling")
        kinds = [given.get(name) or {} for name in ("full_attention", "sliding_attention")]
        if not all(isinstance(kind, Mapping) for kind in kinds) or {*given} - {"full_attention", "sliding_attention"}:
            raise reading.refused("rope_parameters", given, "must hold full_attention and sliding_attention")
        full = self.node(reading, kinds[0])
        local_base = reading.checked("rope_local_base_freq", self.local, POSITIVE)
        local = Rope(base=local_base, bases=("rope_local_base_freq",)).node(reading, kinds[1])
        for node in settings.layers:
            node["position"] = copy.deepcopy(local if "window" in node["mask"] else full)

    def write(self, settings: ModelSettings, content: dict[str, Any]) -> None:
        by_kind = {"window" in node["mask"]: node["position"] for node in reversed(settings.layers)}
        self.write_node(by_kind.get(False, {"base": self.base}), content)
        full = content.pop("rope_parameters")
        local = Rope(base=self.local, bases=("rope_local_base_freq",))
        scaling = content["rope_scaling"]
        local.write_node(by_kind.get(True, {"base": self.local}), content)
        content["rope_scaling"] = scaling
        content["rope_parameters"] = {"full_attention": full, "sliding_attention": content["rope_parameters"]}
