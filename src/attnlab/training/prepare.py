"""What is known before a run's folder is touched: every check of classes, devices and files, and which run it is."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import lightning as L

from attnlab.attention.backends import KEY as BACKEND_KEY
from attnlab.attention.backends import best_backends, missing, use_backends
from attnlab.build import Factory, check_construction, instantiate
from attnlab.config.allowed_classes import allowed_packages
from attnlab.config.code import Code, code_of, homes_of, note_sources
from attnlab.config.run_config import RunConfig
from attnlab.config.tuned_settings import with_tuned_settings
from attnlab.data.corpus import Source
from attnlab.data.dataset import Dataset
from attnlab.data.load import load_dataset
from attnlab.data.tokenizers import Tokenizer
from attnlab.errors import UsageError, shown
from attnlab.inspection.maps import MAX_PROBE_TOKENS, check_probe, map_steps
from attnlab.machine.environment import Processes, plan_processes, processes
from attnlab.model import GPT
from attnlab.store.experiment_folder import ExperimentFolder, PlannedExperiment
from attnlab.store.files import check_writable
from attnlab.store.run_folder import RunFolder
from attnlab.store.status import Status
from attnlab.training.callback_group import AVERAGES, with_callbacks
from attnlab.training.compile_trial import resolve_compile, share_compiled, try_compiler
from attnlab.training.extrapolation import check_lengths
from attnlab.training.hardware import (
    Sizes,
    accelerator_of,
    check_memory,
    device_name,
    keep_freed_memory,
    resolve_attention_dtype,
    resolve_precision,
    set_threads,
    strategy_name,
)
from attnlab.training.identity import Identity, identify
from attnlab.training.initial_weights import InitialWeights, initial_weights
from attnlab.training.logged_metrics import check_metric
from attnlab.training.matching import TimingSite, match_budget
from attnlab.training.optimizer import Recipe
from attnlab.training.recorders.tracker import chosen_loggers
from attnlab.training.resolved import AUTO, not_here, resolve
from attnlab.training.resources import Counted
from attnlab.training.sameness import PLAIN, computes_the_same, plain

T = TypeVar("T")
FEWEST_TOKENS = 2
SAMPLE_PROMPT_TOKENS = 16  # of the validation text, where sample.prompt is null


class Machine(NamedTuple):
    """What the settings come to on this machine."""

    accelerator: str
    precision: str
    attention_dtype: str  # on a CPU that trains
    threads: int


class Prepared(NamedTuple):
    """Everything that is known before the run's folder is touched."""

    config: RunConfig
    machine: Machine
    processes: Processes
    recipe: Recipe
    tokenizer: Tokenizer
    splits: Dataset
    identity: Identity
    code: Code
    folder: RunFolder
    init: InitialWeights | None
    fairness: dict[str, Any]  # what summary.json says of how variants were brought to equal terms, or are on
    loggers: Mapping[str, Factory]
    callbacks: Sequence[L.Callback]  # of the config and those handed over


class Common:
    """What runs that are planned together have in common: asked once where the settings it depends on are the same."""

    def __init__(self, *, of_any_size: bool = False, begins: bool = True) -> None:
        self.of_any_size = of_any_size  # also what does not fit into this machine's memory
        self.begins = begins  # whether runs follow, for which `auto` comes to what it comes to here
        self.answers: dict[str, Any] = {}
        self.counted: Counted = {}

    def model(self, config: RunConfig, n_vocab: int) -> GPT:
        """A config's model without numbers, of this vocabulary."""
        model = self.once("model", built_from(config), lambda: check_construction(config, n_vocab))
        return model if model.vocab_size == n_vocab else check_construction(config, n_vocab)

    def n_vocab(self, data: Any) -> int:
        """How many kinds of tokens these data have; where no run has opened them yet, as few as a model may have."""
        tokens = self.answers.get(json.dumps(["tokens", data], sort_keys=True))
        return FEWEST_TOKENS if tokens is None else int(tokens[0].n_vocab)

    def once(self, question: str, settings: Any, ask: Callable[[], T]) -> T:
        """The answer to a question that depends on these settings alone."""
        key = json.dumps([question, settings], sort_keys=True)
        if key not in self.answers:
            self.answers[key] = ask()
        answer: T = self.answers[key]
        return answer


def prepare(
    config: RunConfig, variant: str, handed_over: Sequence[L.Callback] = (), common: Common | None = None
) -> Prepared:
    """Check what only classes, devices and files can tell, in that order, and find out which run this is.

    With `common` it is one of many that are planned; whether it computes what another does is not asked there.
    """
    planned, common = common is not None, common or Common()
    trainer = config.trainer
    common.once("sources", [], note_sources)
    check_lengths(config.evaluation.lengths)
    runs = Path(config.paths.runs)
    path = runs / config.experiment_name
    experiment = common.once(
        "experiment", str(path), lambda: (ExperimentFolder if common.begins else PlannedExperiment)(path)
    )
    accelerator = accelerator_of(trainer.accelerator, trainer.devices, experiment)
    threads = set_threads(trainer.threads, trainer.devices)
    keep_freed_memory()
    these = (processes if common.begins else plan_processes)(trainer.devices, trainer.nodes)
    config, tuned = with_tuned_settings(config, variant)
    cache = Path(config.paths.cache)
    strategy = strategy_name(trainer.strategy, these.world_size)
    held = these.world_size if strategy == "fsdp" else 1  # by how many processes a model is held
    data = [config.data, config.tokenizer, config.paths.cache]
    model = common.once("model", built_from(config), lambda: check_construction(config, common.n_vocab(data)))
    if not common.of_any_size:
        check_memory(model.n_parameters // held, accelerator)
    recipe: Recipe = instantiate(config, "optimizer", Recipe)
    loggers = chosen_loggers(config)
    config, callbacks = with_callbacks(config, handed_over)
    source, vocabulary = common.once(
        "data", data, lambda: (instantiate(config, "data"), instantiate(config, "tokenizer"))
    )
    if strategy == "fsdp":
        _check_sharded(config, model, source.documents, callbacks)
    if config.batch_size % these.world_size:
        times = f" times trainer.nodes ({trainer.nodes})" if trainer.nodes > 1 else ""
        raise UsageError(
            f"batch_size ({config.batch_size}) must be a multiple of trainer.devices ({trainer.devices}){times}"
        )
    common.once("runs", str(runs), lambda: check_writable(runs, key="paths.runs"))
    common.once("cache", str(cache), lambda: check_writable(cache, key="paths.cache"))
    tokenizer, splits = common.once("tokens", data, lambda: load_dataset(source, vocabulary, cache))
    splits.check_context(config.model.context)
    splits.train_batch(seed=config.streams.data, step=0, batch_size=1, context=config.model.context)  # if it can be had
    check_metric(config, model, splits)
    if config.maps.steps:
        map_steps(trainer.max_steps, config.maps.steps)
        for name, text in probes(config, tokenizer, splits):
            check_probe(name, text, tokenizer, config.model.context)
    sample_prompt(config, tokenizer, splits)
    init = initial_weights(config, tokenizer)
    source_hash = _source_hash(RunFolder(Path(config.resume_from))) if config.resume_from else None
    config = _without_autos(config, accelerator, experiment)
    config = _with_compiler(config, tokenizer.n_vocab, accelerator, experiment, tries=common.begins)
    machine = Machine(accelerator, config.trainer.precision, config.trainer.attention_dtype, threads)
    config, match = match_budget(config, TimingSite(accelerator, machine.precision, threads, cache))
    if match and not common.of_any_size:
        check_memory(check_construction(config).n_parameters // held, accelerator)
    if match:
        init = initial_weights(config, tokenizer)  # which may not fit what the budget made of the model
    resolved = {
        "data.sha256": splits.sha256,
        "tokenizer.sha256": tokenizer.sha256,
        "trainer.accelerator": machine.accelerator,
        "trainer.precision": machine.precision,
        "trainer.attention_dtype": machine.attention_dtype,
        "trainer.threads": machine.threads,
        "trainer.devices": 1,  # a run is the same with any number of processes, so that it goes on with another
        "trainer.strategy": "auto",
    }
    if isinstance(source, Source):
        resolved["data.val_fraction"] = source.val_fraction
    if splits.documents:
        resolved["data.documents"] = True
    if splits.order != "random":
        resolved["data.order"] = splits.order
    if source_hash is not None:
        resolved["resume_from"] = source_hash
    if init is not None:
        resolved["init_from"] = init.sha256
    settings, allowed = config.as_dict(), allowed_packages(config.allow_targets)
    code = common.once("code", [homes_of(settings), allowed], lambda: code_of(settings, allowed))
    identity = identify(config, variant, resolved, code.hash)
    folder = identity.folder(runs, config.experiment_name)
    computes = None if planned or not computes_the_same(config, plain(config)) else PLAIN
    terms = (("match", match), ("tuned", tuned), ("computes", computes))
    fairness = {key: report for key, report in terms if report}
    trained = (config, machine, these, recipe, tokenizer, splits)
    return Prepared(*trained, identity, code, folder, init, fairness, loggers, callbacks)


def built_from(config: RunConfig) -> dict[str, Any]:
    """The settings that decide how a model is built, but for its initial values."""
    groups = ("model", "attention", "position", "allow_targets")
    return {key: value for key, value in config.as_dict().items() if key in groups}


def _without_autos(config: RunConfig, accelerator: str, experiment: ExperimentFolder) -> RunConfig:
    """The config with what each setting that is `auto` comes to in all runs of the experiment."""
    trainer = config.trainer
    usual, name = "cpu" if accelerator == "cpu" else "gpu", device_name(accelerator)
    kind = resolve("trainer.accelerator", trainer.accelerator, lambda: {"value": usual, "device": name}, experiment)
    if kind != usual:
        raise not_here("trainer.accelerator", kind, experiment, "this run was about to take another device")
    precision = resolve(
        "trainer.precision",
        trainer.precision,
        lambda: {"value": resolve_precision("auto", accelerator), "device": name},
        experiment,
    )
    precision = resolve_precision(precision, accelerator)  # refused where it was set, and the device cannot
    dtype = resolve_attention_dtype(trainer.attention_dtype, precision, accelerator, _sizes(config), experiment)
    backend = resolve(
        BACKEND_KEY,
        trainer.attention_backend,
        lambda: {"value": best_backends(accelerator), "device": name},
        experiment,
    )
    if lack := missing(backend, accelerator):
        if trainer.attention_backend == AUTO:
            raise not_here(BACKEND_KEY, backend, experiment, lack)
        raise UsageError(f"{BACKEND_KEY} ({backend}): {lack}; use auto or torch")
    if backend != "torch":
        use_backends(check_construction(config), backend, precision)  # which refuses what it cannot serve
    chosen = replace(trainer, accelerator=kind, precision=precision, attention_dtype=dtype, attention_backend=backend)
    return replace(config, trainer=chosen)


def _check_sharded(config: RunConfig, model: GPT, documents: bool, callbacks: Sequence[L.Callback]) -> None:
    """Refuse what needs a whole model in every process, or computes a block more often in one than in another."""
    if documents and not model.honours_documents:
        raise UsageError(
            "data.documents (true) does not go with trainer.strategy=fsdp where attention runs documents one by one; "
            "use trainer=ddp"
        )
    if config.trainer.compile:
        setting = shown(config.trainer.compile)
        raise UsageError(
            f"trainer.compile ({setting}) does not go with trainer.strategy=fsdp: its parameters come and go"
        )
    for callback in callbacks:
        if isinstance(callback, AVERAGES):
            raise UsageError(
                f"callbacks ({type(callback).__name__}) keeps a whole copy of the model, which no process has with "
                "trainer.strategy=fsdp; use trainer=ddp, or leave it out"
            )


def _with_compiler(
    config: RunConfig, vocabulary: int, accelerator: str, experiment: ExperimentFolder, *, tries: bool
) -> RunConfig:
    """The config with what trainer.compile comes to; what is compiled is kept for other runs.

    A plan does not try a compiler, which may take longer than all else: there, what no run has chosen is false.
    """
    trainer = config.trainer
    if trainer.compile:
        share_compiled(Path(config.paths.cache))
    trial = (lambda: try_compiler(config, vocabulary, accelerator)) if tries else lambda: {"value": False}
    compiles = resolve_compile(trainer.compile, trial, experiment)
    return replace(config, trainer=replace(trainer, compile=compiles))


def _sizes(config: RunConfig) -> Sizes:
    """The attention of a model, as far as its speed goes; a variant's own heads may differ."""
    model = config.model
    return Sizes(config.batch_size, model.n_heads, model.context, max(1, model.d_model // model.n_heads))


def _source_hash(folder: RunFolder) -> str:
    """The identity of the run that another one starts from."""
    summary = folder.read_summary()
    if summary.get("status") == Status.IMPORTED:
        raise UsageError(
            f"resume_from ({folder}) is a model that others have trained: no run goes on from it; init_from={folder} "
            "starts one with its weights"
        )
    if "hash" not in summary:
        raise UsageError(
            f"resume_from ({folder}) must be the folder of a finished run: it has no {folder.summary.name}"
        )
    return f"{summary['hash']}{summary.get('code', '')}/{summary['step']}"


def sample_prompt(config: RunConfig, tokenizer: Tokenizer, splits: Dataset) -> list[int]:
    text, context = config.sample.prompt, config.model.context
    if text is None:
        return splits.example(tokenizer, context, config.streams.eval)[: min(SAMPLE_PROMPT_TOKENS, context)]
    try:
        ids = tokenizer.encode_prompt(text)
    except UsageError as error:
        raise UsageError(f"sample.prompt: {error}") from error
    if not ids or len(ids) > context:
        raise UsageError(f"sample.prompt ({len(ids)} tokens) must be 1 to model.context ({context}) tokens long")
    return ids


def probes(config: RunConfig, tokenizer: Tokenizer, splits: Dataset) -> list[tuple[str, str]]:
    """The sentences whose maps are taken, by name; where maps.probe is null, the data choose it."""
    probe, prompt = config.maps.probe, config.maps.prompt
    if probe is None:
        probe = splits.probe(tokenizer, min(config.model.context, MAX_PROBE_TOKENS), config.streams.eval)
    return [("probe", probe), *([] if prompt is None else [("prompt", prompt)])]
