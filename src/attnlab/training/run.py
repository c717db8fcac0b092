"""One run, from a checked config to a finished folder: the same call continues what was cut off and repeats nothing."""

import logging
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.strategies import DDPStrategy, Strategy

from attnlab.attention.backends import use_backends
from attnlab.build import build_model, check_construction
from attnlab.config.code import changed, changes_since, in_a_line
from attnlab.config.keys import without_watchers
from attnlab.config.run_config import RunConfig
from attnlab.data.datamodule import TextDataModule
from attnlab.data.task import Task
from attnlab.errors import AttnlabError, Diverged, UsageError, shown
from attnlab.inspection.task_metrics import TaskRows, rows_to_measure, token_kinds
from attnlab.machine import signals
from attnlab.machine.environment import Processes, plan_processes, processes
from attnlab.model import GPT
from attnlab.store.checkpoints import CheckpointFolder
from attnlab.store.damage import Damaged
from attnlab.store.digests import Digests
from attnlab.store.files import failures
from attnlab.store.leaves import leaves
from attnlab.store.run_folder import RunFolder, lacks_lengths
from attnlab.store.status import ENDED, Status
from attnlab.training import notes
from attnlab.training.callbacks import Checkpoints, Epochs, Samples, Speed, parts, whole
from attnlab.training.checkpoint import load_rest, network_weights
from attnlab.training.checkpoint_io import VerifiedCheckpointIO
from attnlab.training.console import Progress, print_summary, print_tensorboard_command
from attnlab.training.description import to_yaml
from attnlab.training.extrapolation import Reach, as_scalars, check_lengths, extrapolate, keep, line
from attnlab.training.hardware import StrategyName, device_name, strategy_name
from attnlab.training.identity import differences, earlier
from attnlab.training.map_callback import LogMaps
from attnlab.training.matching import describe_match
from attnlab.training.module import LanguageModel
from attnlab.training.notes import log, note
from attnlab.training.prepare import Prepared, prepare, probes, sample_prompt
from attnlab.training.process_group import Launched, Marks, ProcessGroup, joined
from attnlab.training.recorders.metrics import MetricsRecorder
from attnlab.training.recorders.recorder import Recorders
from attnlab.training.recorders.run_recorders import start_anew, trackers_of, writes_events
from attnlab.training.recorders.tensorboard import TensorBoardRecorder
from attnlab.training.recorders.tracker import Tracker
from attnlab.training.sameness import in_words
from attnlab.training.sharding import Sharded, can_start_empty
from attnlab.training.starts import starts_of
from attnlab.training.stop import StopRequest, stop_request
from attnlab.training.summary import config_to_store, hyperparameters, summarise
from attnlab.training.usage import Meter, alone

ECHO = 3.0  # seconds within which a launcher passes on a signal that the terminal has sent, too
SOON = 1.0  # minutes that the first process, which cannot begin, waits to tell the others
UNSEEN = 60.0  # seconds until other nodes are to see a new folder: their file systems remember that it was not there
HASH = re.compile("[0-9a-f]{64}")
TOGETHER = ("trainer.", "maps.", "sample.", "evaluation.", "experiment_name", "overwrite", "code")
OF_ITS_OWN = ("trainer.threads", "trainer.progress")  # what one process may have otherwise than another
LIGHTNING_PRECISION = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp64": "32-true",  # the model itself is double
    "bf16-true": "bf16-true",
    "fp16": "16-mixed",
}


def run(
    config: RunConfig,
    *,
    variant: str,
    callbacks: Sequence[L.Callback] = (),
    loggers: Sequence[Logger | Tracker] = (),
    planned: Mapping[str, str] | None = None,
    beside: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train one model as the config says and return its summary; a finished run returns at once. A plan trains none.

    `config` has passed `attnlab.config.compose.check`; `variant` names its attention; `callbacks` and `loggers` come to
    those of the config. `planned` is the code (module -> hash) that a sweep goes by, so that all its runs execute the
    same; `beside` is the command that started them and how many at once. Raises UsageError for what cannot work,
    FileFailure, Locked, Diverged, NoUsableCheckpoint, or Stopped after SIGHUP, Ctrl-C or SIGTERM.
    """
    quiet()
    these = (plan_processes if config.plan else processes)(config.trainer.devices, config.trainer.nodes)
    rank_zero_only.rank = these.rank  # type: ignore[attr-defined]  # whatever Lightning has made of the environment
    notes.silent = signals.silent = these.rank > 0
    with failures():
        if config.plan:
            from attnlab.training.run_plan import show_plan

            if not these.rank:
                show_plan(config, variant)
            return {}
        try:
            prepared = prepare(config, variant, callbacks)
            if planned is not None and (names := changed(prepared.code.modules, planned)):
                raise AttnlabError(
                    f"the code was edited after the sweep began ({in_a_line(names)}); the same command goes on"
                )
            prepared = _by_which_code(prepared, ask=planned is None)
        except Exception as error:
            if these.launched:
                _tell_others(these, error, minutes=config.trainer.timeout)
            raise
        prepared.fairness["beside"] = dict(beside or alone())
        with ExitStack() as stack:
            stop, done = stack.enter_context(stop_request()), dict[str, Any]()
            stop.echo = ECHO if these.launched else 0.0
            kind, minutes = prepared.machine.accelerator, config.trainer.timeout
            together = joined(these, stop, accelerator=kind, minutes=minutes)
            try:
                if not these.rank:  # the first process owns the folder
                    stack.enter_context(prepared.folder.lock())
                    if config.overwrite:
                        start_anew(prepared.folder)
                    done = prepared.folder.read_summary()
                finished = done.get("status") == Status.FINISHED
                if finished:
                    _check_code(prepared.folder, prepared, str(prepared.folder))
            except Exception:
                if these.launched:  # the others wait for this one: they are told why it ends
                    stack.enter_context(together)
                raise
            if finished and not these.launched:
                return _again(prepared, done)
            group = stack.enter_context(together)
            if group.broadcast(finished):
                return {} if these.rank else _again(prepared, done)
            _check_alike(prepared, group)
            return _train(prepared, loggers, stop, group)


def _tell_others(these: Processes, error: Exception, *, minutes: float) -> None:
    """Meet the others, that one of them says why all end, though it may be this process alone that cannot begin; if
    nobody comes, it says so itself. The first does not wait long: what is wrong with all, it knows."""
    with suppress(AttnlabError), stop_request() as stop:
        wait = minutes if these.rank else min(minutes, SOON)
        with joined(these, stop, accelerator="cpu", minutes=wait):
            raise error


def _check_alike(prepared: Prepared, group: ProcessGroup) -> None:
    """Refuse processes of which one is about to do something else than the first, or the same by other code."""
    ours = _all_decided(prepared)
    first, modules = group.broadcast((ours, prepared.code.modules))
    apart = [
        f"{key} ({_shortly(ours.get(key))}, and {_shortly(first.get(key))} in the first)"
        for key in sorted({*ours, *first})
        if ours.get(key) != first.get(key)
    ]
    if names := changed(prepared.code.modules, modules):
        apart.append(f"code ({in_a_line(names)})")
    for rank, differing in enumerate(group.gather("; ".join(apart[:3]))):
        if differing:
            raise UsageError(
                f"process {rank} must do what the first does, and differs in {differing}: give all processes the same "
                "command, files and code"
            )


def _check_shared(folder: RunFolder, group: ProcessGroup) -> None:
    """Refuse a folder that the first process has made and another one does not see: both write to it, or read there."""
    group.barrier()
    end = time.monotonic() + UNSEEN
    while group.rank and not folder.path.is_dir() and time.monotonic() < end:
        time.sleep(0.2)
    for rank, is_there in enumerate(group.gather(folder.path.is_dir())):
        if not is_there:
            raise UsageError(
                f"process {rank} does not see {folder}, which the first has made: paths.runs must be a folder that all "
                "nodes share"
            )


def _shortly(value: Any) -> str:
    """A setting in a message; of a hash, its first digits."""
    return shown(value)[:8] if HASH.fullmatch(str(value)) else shown(value)


def _all_decided(prepared: Prepared) -> dict[str, Any]:
    """The settings by which processes must go together: what decides the result, and when they do what."""
    config = dict(leaves(without_watchers(prepared.config.as_dict())))
    when = {key: value for key, value in config.items() if key.startswith(TOGETHER)}
    every = {**when, **prepared.identity.fingerprint, "torch": torch.__version__}
    return {key: value for key, value in every.items() if key not in OF_ITS_OWN}


def _again(prepared: Prepared, done: dict[str, Any]) -> dict[str, Any]:
    """What there is to say of a run that is finished, and to add to it."""
    log(f"{prepared.folder} is finished: val/loss {done['val_loss']:.4f}; overwrite=true starts it again")
    try:
        prepared.folder.check(done)
    except Damaged as damage:
        note(f"warning: {damage.reason}")
    if lacks_lengths(done, check_lengths(prepared.config.evaluation.lengths)):
        done = _add_lengths(prepared, done)
    print_tensorboard_command(prepared.config.paths.runs)
    return done


def _by_which_code(prepared: Prepared, *, ask: bool) -> Prepared:
    """The run itself or, with code=any, what other code has made of it in another folder.

    What is finished there is left alone, and the run trains anew beside it; what was only begun is for the user to
    decide, if anybody is there to `ask`.
    """
    config, code, own = prepared.config, prepared.code, prepared.folder
    if config.overwrite or (_is_worker(prepared) and config.code != "any"):
        return prepared
    there = earlier(prepared.identity, code, config.paths.runs, config.experiment_name)
    if there is None:
        return prepared
    line = f"{there.folder} {there}"
    if config.code == "any":
        return prepared._replace(folder=there.folder, identity=there.identity)
    if ask and not there.ended:
        raise UsageError(f"{line}: code=any goes on with it, overwrite=true starts anew in {own}")
    note(f"note: {line}: training anew in {own}; code=any takes what is there")
    return prepared


def _check_code(folder: RunFolder, prepared: Prepared, what: str) -> None:
    """Refuse what other code has made, unless code=any takes it; says so in either case."""
    names = changes_since(folder.read_code(), prepared.code)
    if names is None:
        log(f"{what} was made before the code of a run was recorded, so that whether it was this code is unknown")
    elif names and prepared.config.code != "any":
        raise UsageError(f"{what} was made by other code ({in_a_line(names)}): code=any takes it")
    elif names:
        note(f"note: {what} was made by other code ({in_a_line(names)}), and is taken")


def _train(
    prepared: Prepared, loggers: Sequence[Logger | Tracker], stop: StopRequest, group: ProcessGroup
) -> dict[str, Any]:
    config, folder = prepared.config, prepared.folder
    started, clock = datetime.now(UTC), time.perf_counter()
    meter = Meter(prepared.machine.accelerator)
    start = None if group.rank else _where_to_start(prepared)
    checkpoint, step, rows_from, digests = group.broadcast(start) or Start(None, None, None, None)
    worker = _is_worker(prepared)
    model = _network(prepared)
    if prepared.init is not None and not model.embedding.weight.is_meta and (checkpoint is None or not worker):
        prepared.init.load_into(model)
    starts = [] if worker else starts_of(model, prepared.recipe)
    if prepared.machine.precision == "fp64":
        model.double()
    use_backends(model, config.trainer.attention_backend, prepared.machine.precision)
    module = LanguageModel(
        model,
        prepared.recipe,
        noise_seed=config.streams.noise,
        log_every=config.trainer.log_every,
        val_scored_bytes=prepared.splits.scored_bytes,
        slice_names=prepared.splits.slice_names,
        compile=config.trainer.compile is True,
    )
    data = TextDataModule(
        prepared.splits,
        seed=config.streams.data,
        batch_size=config.batch_size,
        context=config.model.context,
        eval_seed=config.streams.eval,
    )
    stop.obey("stopped before the first step")
    recorders, events = Recorders([]), None
    if not worker:
        trackers = trackers_of(prepared, loggers)
        _open_folder(prepared, step)
        if digests is not None:
            folder.trim_events(digests)
        table = MetricsRecorder(folder)
        events = TensorBoardRecorder(folder, resume_at=step) if writes_events(prepared) else None
        recorded = table.resume_at(step, rows_from, digests)
        recorders = Recorders([table, *([] if events is None else [events]), trackers], step, recorded)
    if group.world_size > 1:
        _check_shared(folder, group)
    samples, maps, speed = _samples(prepared), _maps(prepared), Speed(config.batch_size * config.model.context)
    progress = Progress(speed, bar=config.trainer.progress)
    epochs = Epochs(prepared.splits, config.batch_size, config.model.context)
    ours = [speed, epochs, *([] if maps is None else [maps]), samples, progress]
    marks = [Marks(group)] if group.world_size > 1 else []
    trainer = make_trainer(prepared, stop, recorders, [*ours, *prepared.callbacks, *marks], group)
    status, reaches = Status.FAILED, list[Reach]()
    try:
        try:
            if events is not None and not events.digests():  # those of an earlier part have the settings
                events.show_settings(config_to_store(prepared), model, hyperparameters(prepared, model))
            if step is None:
                trainer.validate(module, data, verbose=False)
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
            if trainer.global_step % config.trainer.val_every:
                trainer.validate(module, data, verbose=False)
            model = whole(module)
            use_backends(model, "torch", prepared.machine.precision)  # it may be on the CPU again
            if trainer.is_global_zero:
                for reach in _extrapolate(prepared, model):
                    stop.obey(f"stopped after the last of {trainer.max_steps} steps")
                    reaches.append(reach)
                recorders.scalars({**_bayes(prepared), **as_scalars(reaches)}, trainer.global_step)
            if config.match is not None and trainer.global_step < trainer.max_steps:
                raise UsageError(
                    f"match ({config.match}) brings runs to the same budget, and a callback ended this one after "
                    f"step {trainer.global_step} of {trainer.max_steps}: leave one of them out"
                )
            recorders.save()
            recorders.commit()
            status = Status.FINISHED
        except Diverged:
            status = Status.DIVERGED
            raise
        finally:
            recorders.save()
            if status in ENDED and trainer.is_global_zero:
                seconds = time.perf_counter() - clock
                summary = summarise(prepared, module.whole, status, started, seconds, speed, maps, meter, reaches)
                summary |= {"processes": parts(trainer), "starts": starts}
                folder.write_summary(summary, recorders.digests())
    finally:
        recorders.close("success" if status == Status.FINISHED else "failed")
    if not trainer.is_global_zero:
        return {}
    print_summary(summary, samples.text(model) if config.sample.steps else None, config.paths.runs)
    stop.obey("stopped, with the run finished")
    return summary


def _network(prepared: Prepared) -> GPT:
    """The model of a run; without numbers in a process that is to have parts of it, which the first one gives it."""
    config, n_vocab = prepared.config, prepared.tokenizer.n_vocab
    name = strategy_name(config.trainer.strategy, prepared.processes.world_size)
    if _is_worker(prepared) and name == "fsdp" and can_start_empty(empty := check_construction(config, n_vocab)):
        return empty
    return build_model(config, n_vocab)


def _bayes(prepared: Prepared) -> dict[str, float]:
    """The loss of an exact solver of a task at the length of training."""
    task, config = prepared.splits, prepared.config
    return (
        {"val/bayes_loss": task.best(config.model.context, config.streams.eval).loss} if isinstance(task, Task) else {}
    )


def _extrapolate(prepared: Prepared, model: GPT) -> Iterator[Reach]:
    """Judge longer rows, if evaluation.lengths asks for it, line by line."""
    factors = check_lengths(prepared.config.evaluation.lengths)
    if factors:
        context = prepared.config.model.context
        log(f"at other lengths (beyond: after the first {context} tokens):")
        for reach in extrapolate(model, prepared.splits, context, factors, seed=prepared.config.streams.eval):
            log(line(reach))
            yield reach


def _add_lengths(prepared: Prepared, summary: dict[str, Any]) -> dict[str, Any]:
    """Judge a finished run at lengths that it was not asked for before."""
    checkpoint, _ = prepared.folder.checkpoints.newest()
    if checkpoint is None:
        raise UsageError(f"{prepared.folder} has no checkpoint left; overwrite=true trains it again")
    model = build_model(prepared.config, prepared.tokenizer.n_vocab)
    model.load_state_dict(network_weights(checkpoint))
    return keep(prepared.folder, list(_extrapolate(prepared, model)), step=summary["step"])


class Start(NamedTuple):
    """The checkpoint to continue from, the step it was taken after, and the folder whose rows come before it.

    `digests` are those of metrics.csv and the event files at that moment; None where an older attnlab kept none.
    """

    checkpoint: Path | None
    step: int | None
    rows_from: RunFolder | None
    digests: Digests | None


def _where_to_start(prepared: Prepared) -> Start:
    """Where the run continues, if it does; refused if what is there belongs to another run."""
    source, rows_from = prepared.folder, None
    checkpoint, problems = source.checkpoints.newest(with_rows=True)
    allowed: set[str] = set()
    if checkpoint is None and prepared.config.resume_from:
        source = rows_from = RunFolder(Path(prepared.config.resume_from))
        checkpoint, problems = source.checkpoints.newest(with_rows=True)
        allowed = {"trainer.max_steps", "resume_from"}
        if checkpoint is None:
            raise UsageError(f"resume_from ({rows_from}) holds no checkpoint")
    if checkpoint is None:
        return Start(None, None, rows_from, {})
    there = load_rest(checkpoint)
    digests = source.checkpoints.listed()[checkpoint.name]["beside"] or None
    start = Start(checkpoint, there["global_step"], rows_from, digests)
    for problem in problems:
        note(f"warning: {problem}; going on from the one before it")
    apart = [
        remark
        for remark in differences(prepared.identity.fingerprint, there["fingerprint"])
        if remark.split(" ")[0] not in allowed
    ]
    if apart:
        raise UsageError(f"{checkpoint} belongs to another run and is not continued: {'; '.join(apart[:4])}")
    if there["global_step"] > prepared.config.trainer.max_steps:
        raise UsageError(
            f"trainer.max_steps ({prepared.config.trainer.max_steps}) is less than the steps already made in "
            f"{checkpoint} ({there['global_step']})"
        )
    _check_processes(prepared, checkpoint, there)
    _check_code(source, prepared, f"resume_from ({source})" if rows_from else str(source))
    return start


def _check_processes(prepared: Prepared, checkpoint: Path, there: Mapping[str, Any]) -> None:
    """Refuse to go on with other processes where each draws random numbers of its own."""
    parts = there.get("processes") or [{"world_size": 1}]
    before, trainer = parts[-1]["world_size"], prepared.config.trainer
    if there.get("draws") and before != prepared.processes.world_size:
        raise UsageError(
            f"trainer.devices ({trainer.devices}) times trainer.nodes ({trainer.nodes}) must be {before}, as in "
            f"{checkpoint}: this model draws random numbers in training (dropout), each process its own; without "
            "dropout a run goes on with any number of processes"
        )


def _open_folder(prepared: Prepared, step: int | None) -> None:
    """Put config and tokenizer in place and say what is about to happen."""
    folder, config, machine, splits = prepared.folder, prepared.config, prepared.machine, prepared.splits
    context = config.model.context
    folder.prepare()
    folder.write_config(to_yaml(config_to_store(prepared)))
    folder.write_code(prepared.code.described(), step)
    prepared.tokenizer.save(folder.tokenizer)
    log(f"{prepared.identity.variant} in {folder}")
    if "match" in prepared.fairness:
        log(describe_match(prepared.fairness["match"]))
    if "tuned" in prepared.fairness:
        chosen = " ".join(f"{key}={shown(value)}" for key, value in prepared.fairness["tuned"]["chosen"].items())
        log(f"{chosen}, as tuned for this variant in {config.tuned}")
    variant = prepared.identity.variant
    if (plain := prepared.fairness.get("computes", variant)) != variant:
        log(f"{variant} {in_words(config, plain)}")
    apart = machine.accelerator == "cpu" and not machine.precision.startswith(machine.attention_dtype)
    precision = machine.precision + (f" (attention in {machine.attention_dtype})" if apart else "")
    if config.trainer.attention_backend != "torch":
        precision += f", attention by {config.trainer.attention_backend}"
    hardware = f"{device_name(machine.accelerator)}, {precision}, {machine.threads} threads"
    log(f"{hardware}; {splits.describe(context)}")
    if losses := prepared.tokenizer.losses:
        log(f"the tokenizer does not give back: {', '.join(losses)}")
    log(f"baseline loss: {splits.baseline_loss(context):.4f} nats per target, by guessing")
    if prepared.init is not None and step is None:
        log(f"starting with the weights of {prepared.init.folder}; streams.init changes nothing")
    if step is not None:
        log(f"continuing after step {step} of {config.trainer.max_steps}")


def make_trainer(
    prepared: Prepared,
    stop: StopRequest,
    recorders: Recorders,
    callbacks: list[L.Callback],
    group: ProcessGroup,
) -> L.Trainer:
    config, machine, these = prepared.config.trainer, prepared.machine, prepared.processes
    strategy = strategy_name(config.strategy, these.world_size)
    checkpoints = Checkpoints(
        prepared.folder.checkpoints,
        every=config.checkpoint_every,
        stop=stop,
        fingerprint=prepared.identity.fingerprint,
        group=group,
        part={"strategy": strategy, "world_size": these.world_size, "nodes": these.nodes},
    )
    return L.Trainer(
        accelerator=machine.accelerator,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy=make_strategy(strategy, group, prepared.folder.checkpoints),
        precision=LIGHTNING_PRECISION[machine.precision],  # type: ignore[arg-type]
        max_steps=config.max_steps,
        max_epochs=-1,
        accumulate_grad_batches=config.accumulate,
        val_check_interval=config.val_every * config.accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        inference_mode=False,  # what is cached while validating is used while training
        logger=recorders,
        callbacks=[*callbacks, checkpoints],
        plugins=[VerifiedCheckpointIO(), Launched(these)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=prepared.folder.path,
    )


def make_strategy(name: StrategyName, group: ProcessGroup, checkpoints: CheckpointFolder) -> Strategy | str:
    """Lightning's way of sharing the work of a step."""
    if name == "fsdp":
        return Sharded(group, checkpoints)
    # `find_unused_parameters`: without, the buckets of gradients are made anew after the first step, which sums those
    # of four processes in another order from then on, so that a run that goes on would not do so bit for bit.
    return DDPStrategy(find_unused_parameters=True) if name == "ddp" else "auto"


def _samples(prepared: Prepared) -> Samples:
    settings = prepared.config.sample
    return Samples(
        prepared.tokenizer,
        sample_prompt(prepared.config, prepared.tokenizer, prepared.splits),
        n_steps=settings.steps,
        tokens=settings.tokens,
        temperature=settings.temperature,
        top_k=settings.top_k,
        seed=prepared.config.streams.eval,
    )


def _maps(prepared: Prepared) -> LogMaps | None:
    if not prepared.config.maps.steps:
        return None
    return LogMaps(
        probes(prepared.config, prepared.tokenizer, prepared.splits),
        prepared.tokenizer,
        folder=prepared.folder,
        n_steps=prepared.config.maps.steps,
        run=f"{prepared.identity.variant} seed {prepared.identity.seed}",
        rows=_rows_to_measure(prepared),
    )


def _rows_to_measure(prepared: Prepared) -> TaskRows | None:
    """The first validation rows of a task, of which maps are measured."""
    task, context = prepared.splits, prepared.config.model.context
    if not isinstance(task, Task):
        return None
    numbers = np.arange(min(task.val_rows, rows_to_measure(context)))
    batch = task.val_batch(numbers, context=context, seed=prepared.config.streams.eval)
    return TaskRows(batch.ids.numpy(), batch.targets.numpy(), token_kinds(task.names))


def _is_worker(prepared: Prepared) -> bool:
    """Whether this process was started by another one of the same run, to share its batches."""
    return prepared.processes.rank > 0


def quiet() -> None:
    """Keep Lightning's advertisements off the terminal; what it refuses still raises."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated", category=FutureWarning)
    warnings.filterwarnings("ignore", module="lightning.*", category=UserWarning)
    warnings.filterwarnings("ignore", message=".*returned a view tensor.*", category=UserWarning)  # of a block: FSDP2
