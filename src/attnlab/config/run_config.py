"""The settings of a run as a typed record: each fixed key with what it may hold, in one place. Imports no torch.

Defaults and explanations stand in the YAML files. What names a class stays a mapping, for attnlab.build to read.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, get_origin

from attnlab.config.keys import shipped_settings
from attnlab.errors import UsageError, shown
from attnlab.options import Count, Natural, NonNegative, Option, OptionError, Positive, Text, check, options_of
from attnlab.options.model_config import ModelConfig
from attnlab.options.rules import MOST_SEED, Rule
from attnlab.store.terms import LEAST_ALPHA, MOST_ALPHA, MOST_MARGIN

T = TypeVar("T")
Seed = Annotated[int, Rule(int, least=0, most=MOST_SEED)]
MOST_MINUTES = 525_600  # a year
Node = dict[str, Any]  # `_target_` and the settings of a class


@dataclass(frozen=True, kw_only=True)
class StreamsConfig:
    data: Seed
    init: Seed
    noise: Seed
    eval: Seed


@dataclass(frozen=True, kw_only=True)
class MapsConfig:
    steps: Annotated[int, Rule(int, least=0, most=60)]
    probe: Text | None
    prompt: Text | None


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    prompt: Text | None
    tokens: Count
    temperature: NonNegative
    top_k: Count | None
    steps: Natural


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    lengths: list[int]


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    baseline: Text | None
    metric: Text | None
    margin: Annotated[float, Rule(float, above=0, most=MOST_MARGIN)] | None
    alpha: Annotated[float, Rule(float, least=LEAST_ALPHA, below=MOST_ALPHA)]
    looks: Annotated[int, Rule(int, least=1, most=10)]
    sequential: bool
    hypothesis: Text | None
    at_end: bool


@dataclass(frozen=True, kw_only=True)
class AssumeConfig:
    peak_flops: Positive | None
    mfu: Annotated[float, Rule(float, above=0, most=1)] | None


@dataclass(frozen=True, kw_only=True)
class PathsConfig:
    runs: Text
    data: Text
    cache: Text


@dataclass(frozen=True, kw_only=True)
class PositionConfig:
    embed: Node = field(default_factory=dict)
    inside: Node = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    accelerator: Literal["cpu", "gpu", "auto"]
    devices: Count
    nodes: Count
    strategy: Literal["auto", "ddp", "fsdp"]
    timeout: Annotated[float, Rule(float, above=0, most=MOST_MINUTES)]
    max_steps: Count
    accumulate: Count
    precision: Literal["auto", "fp32", "bf16", "fp64", "bf16-true", "fp16"]
    attention_dtype: Literal["auto", "fp32", "bf16", "fp64"]
    attention_backend: Literal["auto", "torch", "flex", "fla", "flex+torch", "fla+torch", "flex+fla+torch"]
    threads: Count | None
    compile: Annotated[bool | Literal["auto"], Rule(bool, choices=("auto",))]
    checkpoint_activations: bool
    val_every: Count
    log_every: Count
    checkpoint_every: Count
    progress: bool


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What `attnlab.config` has composed and checked, or a run folder holds; in the order of a stored config."""

    experiment_name: Text
    seed: Seed
    streams: StreamsConfig
    batch_size: Count
    match: Literal["params", "flops", "state", "tokens", "time"] | None
    match_to: Text
    tuned: Text | None
    maps: MapsConfig
    sample: SampleConfig
    evaluation: EvaluationConfig
    report: ReportConfig
    plan: bool
    assume: AssumeConfig
    preregister: bool
    overwrite: bool
    code: Literal["same", "any"]
    resume_from: Text | None
    init_from: Text | None
    allow_targets: list[str] = field(default_factory=list)
    paths: PathsConfig
    model: ModelConfig
    position: PositionConfig = field(default_factory=PositionConfig)
    attention: Node = field(default_factory=dict)
    tokenizer: Node = field(default_factory=dict)
    optimizer: Node = field(default_factory=dict)
    trainer: TrainerConfig
    logger: dict[str, Node] = field(default_factory=dict)
    callbacks: dict[str, Node] = field(default_factory=dict)
    data: Node = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)  # keys of a user's own files, for others to refer to
    baseline: dict[str, Any] = field(default_factory=dict)  # with match=: its model and its attention
    environment: dict[str, str] = field(default_factory=dict)  # by key, how what came from there is written

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "RunConfig":
        """The record of settings by name; a key that an older run does not have is as it is shipped.

        Raises UsageError for a group without settings, and for sizes of a model that are missing or unknown.
        """
        own = {f.name for f in fields(cls)} - {"more"}
        usual = {**shipped_settings(), "position": {}}
        usual["streams"] = dict.fromkeys(usual["streams"], content.get("seed", usual["seed"]))
        values = usual | {name: value for name, value in content.items() if name in own}
        for name, kind in SECTIONS.items():
            values[name] = _section(name, kind, values[name], {} if name == "model" else usual[name])
        for name in OPEN & values.keys():
            _check_node(name, values[name])
        _check_options(cls, values)
        return cls(**values, more={name: value for name, value in content.items() if name not in own})

    def as_dict(self) -> dict[str, Any]:
        """The settings by name, as a config.yaml holds them."""
        content = asdict(self)
        more, last = content.pop("more"), {name: content.pop(name) for name in ("baseline", "environment")}
        optional = ("logger", "callbacks", *last)
        return {name: value for name, value in (content | more | last).items() if value or name not in optional}


def class_name(node: Node) -> str:
    """The class that stands in a group."""
    return str(node["_target_"]).rpartition(".")[2]


SECTIONS: dict[str, Any] = {n: o.type for n, o in (options_of(RunConfig) or {}).items() if is_dataclass(o.type)}
OPEN = {n for n, o in (options_of(RunConfig) or {}).items() if get_origin(o.type) is dict}


@cache
def fixed_options() -> Mapping[str, Option]:
    """What each fixed key may hold, by its dotted name."""
    every = dict(options_of(RunConfig) or {})
    every |= {f"{group}.{n}": o for group, kind in SECTIONS.items() for n, o in (options_of(kind) or {}).items()}
    return {name: option for name, option in every.items() if option.rules}


def _section(name: str, kind: type[T], content: Any, usual: Mapping[str, Any]) -> T:
    """The settings of a group; of a model, which has no usual ones, neither more nor less than it has."""
    _check_node(name, content)
    settings = {**usual, **{key: value for key, value in content.items() if key in usual or not usual}}
    try:
        _check_options(kind, settings)
        return kind(**settings)
    except OptionError as error:
        raise error.below(name) from error
    except TypeError as error:
        raise UsageError(f"{name}: {' '.join(str(error).split())}") from error


def _check_node(name: str, content: Any) -> None:
    if not isinstance(content, Mapping):
        raise UsageError(f"{name} ({shown(content)}) must hold settings by name")


def _check_options(kind: type, settings: Mapping[str, Any]) -> None:
    options = {name: o for name, o in (options_of(kind) or {}).items() if o.rules and name in settings}
    check(options, {name: settings[name] for name in options}, kind.__name__)
