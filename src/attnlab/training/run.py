"""One run, from a checked config to a finished folder: the same call continues what was cut off and repeats nothing."""

import logging
import os
import shutil
import time
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch

from attnlab.build import build_model, check_construction, made
from attnlab.data.batches import TokenSplits, load_splits
from attnlab.data.datamodule import TextDataModule
from attnlab.data.tokenizers import Tokenizer
from attnlab.errors import Diverged, UsageError
from attnlab.files import check_writable, write_atomically
from attnlab.inspection.maps import check_probe
from attnlab.inspection.records import tensorboard_command
from attnlab.training.callbacks import Checkpoints, Samples, Speed
from attnlab.training.checkpoint import CheckpointFolder, VerifiedCheckpointIO, load_checkpoint
from attnlab.training.console import Progress, say
from attnlab.training.hardware import check_memory, device_name, resolve_accelerator, resolve_precision, set_threads
from attnlab.training.identity import Identity, differences, identify
from attnlab.training.lock import FILE_NAME as LOCK_FILE
from attnlab.training.lock import locked
from attnlab.training.map_callback import LogMaps
from attnlab.training.metrics import Board, MetricsCSV, read_metrics
from attnlab.training.module import LanguageModel
from attnlab.training.optimizer import Recipe
from attnlab.training.report import CONFIG, SUMMARY, environment, read_summary, show_settings, to_yaml, write_json
from attnlab.training.stop import StopWish, stop_wish

LIGHTNING_PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed"}
SAMPLE_PROMPT_TOKENS = 16  # of the validation text, where sample.prompt is null


class Machine(NamedTuple):
    """What the settings come to on this machine."""

    accelerator: str
    precision: str
    threads: int


class Prepared(NamedTuple):
    """Everything that is known before the run's folder is touched."""

    config: dict[str, Any]
    machine: Machine
    recipe: Recipe
    tokenizer: Tokenizer
    splits: TokenSplits
    identity: Identity
    folder: Path


def run(config: dict[str, Any], *, variant: str) -> dict[str, Any]:
    """Train one model as the config says and return its summary; a finished run returns at once.

    `config` has passed `attnlab.config.check`; `variant` names its attention. Raises UsageError for what cannot work,
    Locked, Diverged, NoUsableCheckpoint, or Stopped after Ctrl-C or SIGTERM.
    """
    _quiet()
    prepared = prepare(config, variant)
    if _is_worker():
        return _train(prepared)  # the first process owns the folder and has made it ready
    with locked(prepared.folder):
        if config["overwrite"]:
            _clear(prepared.folder)
        done = read_summary(prepared.folder)
        if done.get("status") == "finished":
            say(f"{prepared.folder} is finished: val/loss {done['val_loss']:.4f}; overwrite=true starts it again")
            _where_to_look(prepared)
            return done
        return _train(prepared)


def prepare(config: dict[str, Any], variant: str) -> Prepared:
    """Check what only classes, devices and files can tell, in that order, and find out which run this is."""
    trainer = config["trainer"]
    accelerator = resolve_accelerator(trainer["accelerator"], trainer["devices"])
    machine = Machine(
        accelerator, resolve_precision(trainer["precision"], accelerator), set_threads(trainer["threads"])
    )
    skeleton = check_construction(config)
    check_memory(sum(p.numel() for p in skeleton.parameters()), accelerator)
    recipe: Recipe = made(config, "optimizer")
    source, vocabulary = made(config, "data"), made(config, "tokenizer")
    if config["batch_size"] % trainer["devices"]:
        raise UsageError(
            f"batch_size ({config['batch_size']}) must be a multiple of trainer.devices ({trainer['devices']})"
        )
    runs, cache = Path(config["paths"]["runs"]), Path(config["paths"]["cache"])
    check_writable(runs, key="paths.runs")
    check_writable(cache, key="paths.cache")
    vocabulary.prepare(cache)
    corpus = source.load()
    tokenizer = vocabulary.build(corpus, cache)
    splits = load_splits(corpus, tokenizer, cache)
    splits.check_context(config["model"]["context"])
    for name, text in _probes(config):
        check_probe(name, text, tokenizer, config["model"]["context"])
    _sample_prompt(config, tokenizer, splits)
    resolved = {
        "data.sha256": splits.corpus_sha256,
        "data.val_fraction": config["data"]["val_fraction"],
        "tokenizer.sha256": tokenizer.sha256,
        "trainer.accelerator": machine.accelerator,
        "trainer.precision": machine.precision,
        "trainer.threads": machine.threads,
    }
    if config["resume_from"]:
        resolved["resume_from"] = _source_hash(Path(config["resume_from"]))
    identity = identify(config, variant, resolved)
    folder = identity.folder(runs, config["experiment_name"])
    return Prepared(config, machine, recipe, tokenizer, splits, identity, folder)


def _train(prepared: Prepared) -> dict[str, Any]:
    config, folder = prepared.config, prepared.folder
    started, clock = datetime.now(UTC), time.perf_counter()
    checkpoint, rows_from = _where_to_start(prepared)
    step = int(load_checkpoint(checkpoint)["global_step"]) if checkpoint else None
    model = build_model(config, prepared.tokenizer.n_vocab)
    module = LanguageModel(
        model,
        prepared.recipe,
        noise_seed=config["streams"]["noise"],
        log_every=config["trainer"]["log_every"],
        val_scored_bytes=prepared.splits.scored_bytes,
        compile=config["trainer"]["compile"],
    )
    data = TextDataModule(
        prepared.splits,
        seed=config["streams"]["data"],
        batch_size=config["batch_size"],
        context=config["model"]["context"],
    )
    with stop_wish() as wish:
        table = MetricsCSV(folder)
        if not _is_worker():
            _open_folder(prepared, step)
            table.resume_at(step, rows_from)
        board = Board(folder, resume_at=step)
        samples, maps, speed = _samples(prepared), _maps(prepared), _speed(config)
        trainer = _trainer(
            prepared, wish, [table, board], [speed, maps, samples, Progress(speed, bar=config["trainer"]["progress"])]
        )
        if not _is_worker():
            show_settings(board, _stored(prepared), model, _hyper(prepared, model))
        status = "failed"
        try:
            if step is None:
                trainer.validate(module, data, verbose=False)
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
            if trainer.global_step % config["trainer"]["val_every"]:
                trainer.validate(module, data, verbose=False)
            status = "finished"
        except Diverged:
            status = "diverged"
            raise
        finally:
            table.save()
            board.close()
            if status != "failed" and trainer.is_global_zero:
                summary = _summary(prepared, model, status, started, time.perf_counter() - clock, speed, maps)
                write_json(folder / SUMMARY, summary)
    if trainer.is_global_zero:
        _tell(prepared, summary, samples.text(model))
    return summary if trainer.is_global_zero else {}


def _where_to_start(prepared: Prepared) -> tuple[Path | None, Path | None]:
    """The checkpoint to continue from, if any, and the folder whose rows come before it."""
    folder, rows_from = prepared.folder, None
    checkpoint, problems = CheckpointFolder(folder / "checkpoints").newest()
    allowed: set[str] = set()
    if checkpoint is None and prepared.config["resume_from"]:
        rows_from = Path(prepared.config["resume_from"])
        checkpoint, problems = CheckpointFolder(rows_from / "checkpoints").newest()
        allowed = {"trainer.max_steps", "resume_from"}
        if checkpoint is None:
            raise UsageError(f"resume_from ({rows_from}) holds no checkpoint")
    if _is_worker() or checkpoint is None:
        return checkpoint, rows_from
    for problem in problems:
        say(f"warning: {problem}; going on from the one before it")
    there = load_checkpoint(checkpoint)
    apart = [
        remark
        for remark in differences(prepared.identity.fingerprint, there["fingerprint"])
        if remark.split(" ")[0] not in allowed
    ]
    if apart:
        raise UsageError(f"{checkpoint} belongs to another run and is not continued: {'; '.join(apart[:4])}")
    if there["global_step"] > prepared.config["trainer"]["max_steps"]:
        raise UsageError(
            f"trainer.max_steps ({prepared.config['trainer']['max_steps']}) is less than the steps already made in "
            f"{checkpoint} ({there['global_step']})"
        )
    return checkpoint, rows_from


def _source_hash(folder: Path) -> str:
    """The identity of the run that another one starts from."""
    summary = read_summary(folder)
    if "hash" not in summary:
        raise UsageError(f"resume_from ({folder}) must be the folder of a finished run: it has no {SUMMARY}")
    return f"{summary['hash']}/{summary['step']}"


def _open_folder(prepared: Prepared, step: int | None) -> None:
    """Put config and tokenizer in place and say what is about to happen."""
    folder, config, machine, splits = prepared.folder, prepared.config, prepared.machine, prepared.splits
    (folder / SUMMARY).unlink(missing_ok=True)
    CheckpointFolder(folder / "checkpoints").tidy()
    if step is None:
        for events in folder.glob("events.out.tfevents.*"):
            events.unlink()  # of an attempt that did not come as far as a checkpoint
    write_atomically(folder / CONFIG, to_yaml(_stored(prepared)).encode(), key="paths.runs")
    prepared.tokenizer.save(folder)
    say(f"{prepared.identity.variant} in {folder}")
    say(
        f"{device_name(machine.accelerator)}, {machine.precision}, {machine.threads} threads; "
        f"{len(splits.train):,} training and {len(splits.val):,} validation tokens of {splits.n_vocab:,} kinds"
    )
    say(f"loss to beat: {splits.unigram_entropy():.4f} nats per token, by guessing tokens by how often they occur")
    if step is not None:
        say(f"continuing after step {step} of {config['trainer']['max_steps']}")


def _clear(folder: Path) -> None:
    """Remove what a run leaves behind; the lock stays, for it is ours."""
    for entry in folder.iterdir():
        if entry.name == LOCK_FILE:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _trainer(prepared: Prepared, wish: StopWish, loggers: list[Any], callbacks: list[L.Callback]) -> L.Trainer:
    config, machine = prepared.config["trainer"], prepared.machine
    checkpoints = Checkpoints(
        prepared.folder / "checkpoints",
        every=config["checkpoint_every"],
        wish=wish,
        fingerprint=prepared.identity.fingerprint,
    )
    return L.Trainer(
        accelerator=machine.accelerator,
        devices=config["devices"],
        strategy=config["strategy"],
        precision=LIGHTNING_PRECISION[machine.precision],  # type: ignore[arg-type]
        max_steps=config["max_steps"],
        max_epochs=-1,
        accumulate_grad_batches=config["accumulate"],
        val_check_interval=config["val_every"] * config["accumulate"],
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        inference_mode=False,  # what is cached while validating is used while training
        logger=loggers,
        callbacks=[*callbacks, checkpoints],
        plugins=[VerifiedCheckpointIO()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=prepared.folder,
    )


def _samples(prepared: Prepared) -> Samples:
    settings = prepared.config["sample"]
    return Samples(
        prepared.tokenizer,
        _sample_prompt(prepared.config, prepared.tokenizer, prepared.splits),
        n_steps=settings["steps"],
        tokens=settings["tokens"],
        temperature=settings["temperature"],
        top_k=settings["top_k"],
        seed=prepared.config["streams"]["eval"],
    )


def _sample_prompt(config: Mapping[str, Any], tokenizer: Tokenizer, splits: TokenSplits) -> list[int]:
    text, context = config["sample"]["prompt"], config["model"]["context"]
    if text is None:
        return _first_words(tokenizer, splits)[: min(SAMPLE_PROMPT_TOKENS, context)]
    try:
        ids = tokenizer.encode(text)
    except UsageError as error:
        raise UsageError(f"sample.prompt: {error}") from error
    if not ids or len(ids) > context:
        raise UsageError(f"sample.prompt ({len(ids)} tokens) must be 1 to model.context ({context}) tokens long")
    return ids


def _first_words(tokenizer: Tokenizer, splits: TokenSplits) -> list[int]:
    """The beginning of the first whole paragraph of the validation text: a cut by bytes may fall within a word."""
    text = tokenizer.decode(splits.val[:4096])
    start = text.find("\n\n")
    return tokenizer.encode(text[start:].strip() if 0 <= start < len(text) // 2 else text)


def _probes(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = [("probe", config["maps"]["probe"]), ("prompt", config["maps"]["prompt"])]
    return [(name, text) for name, text in found if text is not None]


def _maps(prepared: Prepared) -> LogMaps:
    return LogMaps(
        _probes(prepared.config),
        prepared.tokenizer,
        folder=prepared.folder / "maps",
        n_steps=prepared.config["maps"]["steps"],
        run=f"{prepared.identity.variant} seed {prepared.identity.seed}",
    )


def _speed(config: Mapping[str, Any]) -> Speed:
    return Speed(config["batch_size"] * config["model"]["context"], config["trainer"]["log_every"])


def _stored(prepared: Prepared) -> dict[str, Any]:
    """What config.yaml holds: the resolved config and what the run was called."""
    return {"variant": prepared.identity.variant, **prepared.config}


def _hyper(prepared: Prepared, model: torch.nn.Module) -> dict[str, Any]:
    """What the hparams tab compares runs by, the variant first."""
    config, machine = prepared.config, prepared.machine
    sizes = {key: config["model"][key] for key in ("n_layers", "n_heads", "d_model", "context", "dropout")}
    return {
        "variant": prepared.identity.variant,
        "hash": prepared.identity.hash8,
        "seed": config["seed"],
        "position": _class_name(config["position"]["inside"]) + " + " + _class_name(config["position"]["embed"]),
        "optimizer": _class_name(config["optimizer"]),
        "lr": config["optimizer"]["lr"],
        "batch_size": config["batch_size"],
        "max_steps": config["trainer"]["max_steps"],
        "parameters": sum(p.numel() for p in model.parameters()),
        **sizes,
        "precision": machine.precision,
        "data": prepared.splits.corpus_sha256[:8],
        "tokenizer": f"{prepared.tokenizer.name} {prepared.tokenizer.n_vocab}",
    }


def _class_name(node: Mapping[str, Any]) -> str:
    return str(node["_target_"]).rpartition(".")[2]


def _summary(
    prepared: Prepared, model: Any, status: str, started: datetime, seconds: float, speed: Speed, maps: LogMaps
) -> dict[str, Any]:
    """What a run came to; `seconds` are those of its last part, the others add up over all parts."""
    config, splits = prepared.config, prepared.splits
    rows = read_metrics(prepared.folder)
    losses = [(row.value, row.step) for row in rows if row.metric == "val/loss"]
    last = {row.metric: row.value for row in rows}  # the latest row of each metric
    best = min(losses, default=(None, None))
    cost = model.cost(config["model"]["context"])
    return {
        "status": status,
        "variant": prepared.identity.variant,
        "hash": prepared.identity.hash8,
        "seed": prepared.identity.seed,
        "step": max((row.step for row in rows), default=0),
        "val_loss": last.get("val/loss"),
        "val_bits_per_byte": last.get("val/bits_per_byte"),
        "best_val_loss": best[0],
        "best_step": best[1],
        "train_loss": last.get("train/loss"),
        "unigram_loss": splits.unigram_entropy(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "attention_cost": {"seq_len": config["model"]["context"], **cost._asdict()},
        "tokens": speed.tokens,
        "tokens_per_second": speed.tokens / speed.seconds if speed.seconds else None,
        "train_seconds": speed.seconds,
        "map_seconds": maps.seconds,
        "seconds": seconds,
        "started": started.isoformat(timespec="seconds"),
        "data_sha256": splits.corpus_sha256,
        "tokenizer_sha256": prepared.tokenizer.sha256,
        "n_vocab": splits.n_vocab,
        "device": device_name(prepared.machine.accelerator),
        "precision": prepared.machine.precision,
        "threads": prepared.machine.threads,
        "devices": config["trainer"]["devices"],
        **environment(),
    }


def _tell(prepared: Prepared, summary: Mapping[str, Any], sample: tuple[str, str]) -> None:
    """The end of a run on the terminal: a sample, the losses, and the command that shows everything."""
    prompt, more = sample
    say(f"\nsample: {prompt}|{more}\n")
    say(
        f"val/loss {summary['val_loss']:.4f} (best {summary['best_val_loss']:.4f} at step {summary['best_step']}, "
        f"to beat {summary['unigram_loss']:.4f})   val/bits_per_byte {summary['val_bits_per_byte']:.4f}   "
        f"{summary['tokens_per_second'] or 0:,.0f} tokens/s   {summary['seconds']:.0f} s"
    )
    _where_to_look(prepared)


def _where_to_look(prepared: Prepared) -> None:
    say("look at it with:")
    say(f"  {tensorboard_command(Path(prepared.config['paths']['runs']))}")


def _is_worker() -> bool:
    """Whether this process was started by another one of the same run, to share its batches."""
    return int(os.environ.get("LOCAL_RANK", "0")) > 0 or int(os.environ.get("RANK", "0")) > 0


def _quiet() -> None:
    """Keep Lightning's advertisements off the terminal; what it refuses still raises."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated", category=FutureWarning)
    warnings.filterwarnings("ignore", module="lightning.*", category=UserWarning)
