"""A whole run in one process: what it leaves behind, what it refuses, and that looking changes nothing."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tests.inspection.event_records import read_heads, read_records
from tests.laws.cases import NAMES, sampled
from tests.training.launch import STEPS, folder_of, run_here, run_there, tiny, unseal

import attnlab
from attnlab.config.code import Code
from attnlab.config.compose import compose_config, config_dir
from attnlab.data.batches import IGNORED, validation_batch
from attnlab.errors import AttnlabError, Diverged, Locked, UsageError
from attnlab.inspection.head_metrics import of_heads
from attnlab.inspection.records import load_maps
from attnlab.store.files import write_json
from attnlab.store.metrics_csv import read_metrics
from attnlab.store.run_folder import RunFolder
from attnlab.training.checkpoint import load_checkpoint
from attnlab.training.recorders.tensorboard import shown_as
from attnlab.training.run import run

VARIANTS = sorted(p.stem for p in (config_dir() / "attention").glob("*.yaml"))
TAGS = {
    "train/loss",
    "val/loss",
    "val/bits_per_byte",
    "perf/tokens_per_second",
    "optim/lr",
    "optim/grad_norm",
    "attention_entropy/L00H01",
    "attention_entropy/uniform_causal",
    "attention_first_token_mass/L00H01",
    "attention_distance/L00H01",
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run with a sentence of the user's own."""
    folder = tmp_path_factory.mktemp("done")
    run_here(folder, "maps.prompt=7 times 9 is")
    return folder_of(folder)


@pytest.fixture(scope="module")
def board(done: Path) -> EventAccumulator:
    events = EventAccumulator(str(done), size_guidance={"images": 0, "tensors": 0, "scalars": 0})
    events.Reload()
    return events


def test_a_run_leaves_behind_what_it_should(done: Path) -> None:
    left = {p.name for p in done.iterdir() if not p.name.startswith((".", "events"))}
    assert left == {"config.yaml", "code.json", "summary.json", "metrics.csv", "tokenizer.json", "maps", "checkpoints"}
    assert len(list(done.glob("events.out.tfevents.*"))) == 1
    assert {p.name for p in (done / "maps").iterdir()} == {"best.safetensors", "last.safetensors"}
    assert "=" not in str(done.relative_to(done.parents[3])), "folders without signs that a shell or a path dislikes"


def test_stored_config_repeats_the_run(done: Path) -> None:
    """The stored config is resolved and repeats the run."""
    stored = yaml.safe_load((done / "config.yaml").read_text())
    assert stored["variant"] == "multi_head" and stored["streams"] == {"data": 0, "init": 0, "noise": 0, "eval": 0}
    assert "${" not in (done / "config.yaml").read_text()


def test_the_summary_says_what_the_rows_say(done: Path) -> None:
    summary, rows = json.loads((done / "summary.json").read_text()), read_metrics(done)
    losses = {row.step: row.value for row in rows if row.metric == "val/loss"}
    assert list(losses) == [0, 8, 16, 24], "the step before the first update counts"
    assert summary["status"] == "finished" and summary["step"] == STEPS
    assert summary["val_loss"] == losses[STEPS]
    assert (summary["best_val_loss"], summary["best_step"]) == min((v, s) for s, v in losses.items())
    assert summary["tokens"] == STEPS * 4 * 32 and summary["parameters"] > 0
    assert summary["attention_cost"]["pairs"] > 0 and summary["versions"]["torch"] == torch.__version__
    assert [row.step for row in rows if row.metric == "train/loss"] == list(range(1, STEPS + 1))
    assert losses[STEPS] < losses[0]


def test_tensorboard_shows_what_the_rows_say(done: Path, board: EventAccumulator) -> None:
    """Losses first: what is none stands below vitals/, and what heads have is no chart."""
    rows, heads = read_metrics(done), read_heads(done)
    tags = {row.metric for row in rows}
    assert tags >= TAGS and heads.keys() == {tag for tag in tags if of_heads(tag)}
    for tag in tags:
        ours = [(row.step, np.float32(row.value)) for row in rows if row.metric == tag]
        board_says = [(e.step, e.value) for e in board.Scalars(shown_as(tag))] if tag not in heads else heads[tag]
        assert [(step, np.float32(value)) for step, value in board_says] == ours, tag
    shown = sorted(board.Tags()["scalars"])
    assert len(shown) == len(tags - heads.keys()) + 1, "the best loss besides"
    assert shown[:5] == ["best/val_loss", "train/loss", "train/tokens_per_second", "val/bits_per_byte", "val/loss"]
    assert board.Scalars("best/val_loss")[-1].value == np.float32(min(r.value for r in rows if r.metric == "val/loss"))


def test_pictures_in_tensorboard(board: EventAccumulator) -> None:
    """TensorBoard shows a picture per layer at every map step."""
    for group in ("weights", "weights_prompt"):
        for layer in (0, 1):
            steps = [event.step for event in board.Images(f"{group}/layer_{layer:02d}")]
            assert steps == [0, 1, 5, STEPS]


def test_texts_in_tensorboard(board: EventAccumulator) -> None:
    """TensorBoard holds texts and hyperparameters."""
    tensors = board.Tags()["tensors"]
    for tag in ("config/text_summary", "cost/text_summary", "sample/text_summary", "maps/about/text_summary"):
        assert tag in tensors, tag
    (cost,) = board.Tensors("cost/text_summary")
    assert b"| 0 to 1 | MultiHeadAttention |" in cost.tensor_proto.string_val[0]
    assert [e.step for e in board.Tensors("sample/text_summary")] == [0, STEPS]
    plugin = board.PluginTagToContent("hparams")
    hyper = metadata.parse_session_start_info_plugin_data(plugin["_hparams_/session_start_info"]).hparams
    assert metadata.EXPERIMENT_TAG not in plugin, "which would keep the tab from finding what differs"
    assert sorted(hyper)[:5] == ["attention", "data", "lr", "parameters", "seed"], "the tab sorts them, and shows five"
    assert hyper["attention"].string_value == "multi_head"
    assert not any("hp_metric" in tag for tag in board.Tags()["scalars"]), "no metric of -1"


def test_raw_maps(done: Path) -> None:
    """The raw maps are those of the finished model."""
    model, tokenizer = attnlab.load(done)
    maps = load_maps(done / "maps" / "last.safetensors")
    assert maps.step == STEPS and [s.name for s in maps.sentences] == ["probe", "prompt"]
    ids = torch.tensor([tokenizer.encode("7 times 9 is")])
    for layer, fresh in zip(maps.sentences[1].layers, model.attention_maps(ids), strict=True):
        assert layer.weights is not None and fresh.weights is not None
        # The run trained in another precision, but its maps are taken in float32, like these.
        np.testing.assert_allclose(layer.weights, fresh.weights[0].numpy(), atol=1e-6)
    records = [r for r in read_records(done) if r.step == STEPS and r.probe == "prompt"]
    assert [r.layer for r in records] == [0, 1]
    np.testing.assert_array_equal(records[0].weights, maps.sentences[1].layers[0].weights.astype(np.float16))


def test_loaded_model(tmp_path: Path) -> None:
    """A loaded model has the validation loss of its run."""
    summary = run_here(tmp_path, "trainer.precision=fp32")
    model, tokenizer = attnlab.load(folder_of(tmp_path))
    text = (tmp_path / "text.txt").read_bytes()
    val = np.array(tokenizer.encode(text[int(len(text) * 0.9) :].decode()))
    windows = np.arange(-(-(len(val) - 1) // 32))
    ids, targets, *_ = validation_batch(val, context=32, windows=windows)
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model(ids).flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
    assert float(loss) == pytest.approx(summary["val_loss"], rel=1e-5)  # float32 sums in another order


def test_a_finished_run_returns_at_once(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.stat().st_mtime_ns for p in done.rglob("*") if p.is_file() and p.name != ".lock"}
    summary = run_here(done.parents[3], "maps.prompt=7 times 9 is")
    assert summary["status"] == "finished" and "is finished" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in done.rglob("*") if p.is_file() and p.name != ".lock"} == before


def as_by_other_code(done: Path, to: Path) -> Path:
    """A copy of a finished run in which another module of attnlab has executed."""
    folder = to / "runs" / "default" / done.parent.name / done.name
    shutil.copytree(done, folder)
    record = json.loads((folder / "code.json").read_text())
    record["modules"]["attnlab.attention.softmax"] = "0" * 16
    code = Code(record["modules"])
    write_json(folder / "code.json", {**record, "hash": code.hash})
    summary = json.loads((folder / "summary.json").read_text())
    write_json(folder / "summary.json", {**summary, "code": code.hash})
    unseal(folder)
    other = folder.parent.with_name(f"{folder.parent.name.partition('.')[0]}.{code.hash[:4]}")
    folder.parent.rename(other)
    return other / folder.name


CHANGED = r"other code \(changed: attnlab.attention.softmax\)"


def test_loading_under_other_code(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused and named; code=any reads it, and so is what is from before code was recorded."""
    folder = as_by_other_code(done, tmp_path)
    attnlab.load(done)
    assert capsys.readouterr().err == ""
    with pytest.raises(UsageError, match=CHANGED + ": code=any"):
        attnlab.load(folder)
    attnlab.load(folder, code="any")
    assert re.fullmatch(f"note: .*{CHANGED}\n", capsys.readouterr().err)
    (folder / "code.json").unlink()
    attnlab.load(folder)
    assert capsys.readouterr().err == f"note: which code trained {folder} is unknown: it has no code.json\n"


def test_other_code_trains_anew_beside(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same command names what changed and leaves the old run alone; code=any takes it."""
    shutil.copy(done.parents[3] / "text.txt", tmp_path)
    folder = as_by_other_code(done, tmp_path)
    (folder / "summary.json").write_text((folder / "summary.json").read_text().replace('"step": 24', '"step": 23'))
    assert run_here(tmp_path, "maps.prompt=7 times 9 is", "code=any")["step"] == 23
    assert re.search(CHANGED + ", and is taken", capsys.readouterr().err)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    assert run_here(tmp_path, "maps.prompt=7 times 9 is")["step"] == 24
    assert re.search(CHANGED + ": training anew in .*; code=any takes what is there", capsys.readouterr().err)
    assert {path: path.read_bytes() for path in before} == before
    configurations = sorted(path.name for path in folder.parents[1].iterdir() if path.is_dir())
    assert configurations == sorted([folder.parent.name, done.parent.name])
    run_here(tmp_path, "maps.prompt=7 times 9 is")
    assert "is finished" in capsys.readouterr().out, "and is found from then on"


def test_continuing_under_other_code(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What other code has begun is not continued unasked; with code=any both are recorded, and it is neither's own."""
    shutil.copy(done.parents[3] / "text.txt", tmp_path)
    folder = as_by_other_code(done, tmp_path)
    (folder / "summary.json").unlink()
    words = ["maps.prompt=7 times 9 is"]
    with pytest.raises(UsageError, match="was begun by " + CHANGED + ": code=any goes on with it, overwrite=true"):
        run_here(tmp_path, *words)
    summary = run_here(tmp_path, *words, "code=any")
    record = json.loads((folder / "code.json").read_text())
    assert summary["status"] == "finished" and summary["code"] == record["hash"]
    assert [later["from_step"] for later in record["later"]] == [STEPS]
    assert record["later"][0]["hash"] == json.loads((done / "code.json").read_text())["hash"] != record["hash"]
    with pytest.raises(UsageError, match=CHANGED):
        attnlab.load(folder)
    assert run_here(tmp_path, *words, "overwrite=true")["code"] == record["later"][0]["hash"]


def test_continuing_from_other_code(done: Path, tmp_path: Path) -> None:
    """resume_from asks for code=any, too."""
    shutil.copy(done.parents[3] / "text.txt", tmp_path)
    folder = as_by_other_code(done, tmp_path)
    words = ["maps.prompt=7 times 9 is", f"resume_from={folder}", "trainer.max_steps=25", "experiment_name=more"]
    with pytest.raises(UsageError, match=CHANGED + ": code=any"):
        run_here(tmp_path, *words)


def test_planned_code(tmp_path: Path) -> None:
    """A worker that would execute other code than its sweep was planned with does not."""
    config = compose_config(tiny(tmp_path))
    with pytest.raises(AttnlabError, match=r"edited after the sweep began \(changed: attnlab.attention, "):
        run(config, variant="multi_head", planned={})
    assert not list((tmp_path / "runs").glob("*/multi_head*"))


def test_overwrite(tmp_path: Path) -> None:
    """Overwrite starts again and comes to the same."""
    run_here(tmp_path)
    first = [row for row in read_metrics(folder_of(tmp_path)) if not row.metric.startswith("perf/")]
    run_here(tmp_path, "overwrite=true")
    assert [row for row in read_metrics(folder_of(tmp_path)) if not row.metric.startswith("perf/")] == first


@pytest.mark.parametrize("variant", ["multi_head", pytest.param("gated_delta", marks=pytest.mark.slow)])
def test_looking_changes_nothing(variant: str, tmp_path: Path) -> None:
    weights = []
    for experiment, words in (
        ("seen", ["maps.steps=24", "sample.steps=24"]),
        ("unseen", ["maps.steps=2", "sample.steps=0"]),
    ):
        run_here(tmp_path, f"experiment_name={experiment}", *words, "model.dropout=0.2", variant=variant)
        folder = folder_of(tmp_path, variant, experiment)
        weights.append(load_checkpoint(folder / "checkpoints" / f"step_{STEPS:08d}.ckpt")["state_dict"])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("variant", sampled([(name,) for name in NAMES], 25, [("hybrid",), ("ttt",)]))
def test_variants_train(variant: str, tmp_path: Path) -> None:
    """Every variant trains draws decodes and loads."""
    words = ["trainer.max_steps=3", "trainer.val_every=3", "maps.steps=2"]
    summary = run_here(tmp_path, *words, variant=variant)
    assert summary["status"] == "finished" and np.isfinite(summary["val_loss"])
    folder = folder_of(tmp_path, variant)
    model, tokenizer = attnlab.load(folder)
    drawn = {i for i, block in enumerate(model.layers) if block.attention.traits.map_kind != "none"}
    assert {r.layer for r in read_records(folder)} == drawn == (set() if variant == "ttt" else {0, 1})
    ids = torch.tensor([tokenizer.encode("8 times 15")])
    with torch.no_grad():
        whole, (stepped, _) = model(ids), model.step(ids, model.init_state(1, 16))
    torch.testing.assert_close(stepped, whole, atol=1e-4, rtol=1e-4)  # float32, other order of sums


def test_accumulated_batches_make_one_update(tmp_path: Path) -> None:
    summary = run_here(tmp_path, "trainer.accumulate=3", "trainer.max_steps=6", "trainer.val_every=2")
    rows = read_metrics(folder_of(tmp_path))
    assert summary["tokens"] == 6 * 3 * 4 * 32
    assert [row.step for row in rows if row.metric == "val/loss"] == [0, 2, 4, 6]
    assert [row.step for row in rows if row.metric == "train/loss"] == [1, 2, 3, 4, 5, 6]


def test_last_step_is_validated(tmp_path: Path) -> None:
    """A last step between two validations is validated too."""
    run_here(tmp_path, "trainer.max_steps=11", "trainer.val_every=4")
    assert [row.step for row in read_metrics(folder_of(tmp_path)) if row.metric == "val/loss"] == [0, 4, 8, 11]


@pytest.mark.slow
def test_nan_loss(tmp_path: Path) -> None:
    """A loss that is no number ends the run before the update."""
    words = ["optimizer.lr=1e12", "optimizer.grad_clip=null", "trainer.precision=fp32"]
    with pytest.raises(Diverged, match=r"step \d+: the loss is .* stopped before the update") as end:
        run_here(tmp_path, *words)
    assert end.value.exit_code == 4
    summary = json.loads((folder_of(tmp_path) / "summary.json").read_text())
    assert summary["status"] == "diverged"
    assert run_there(tmp_path, *words).returncode == 4


@pytest.mark.parametrize(
    ("samples", "said"), [(0, r"step 1: val/loss is nan"), (1, r"the model's logits are not finite")]
)
def test_last_update_diverges(tmp_path: Path, samples: int, said: str) -> None:
    """A last update that spoils the weights ends the run as diverged."""
    words = ["optimizer.lr=1e30", "optimizer.warmup_fraction=0", "optimizer.grad_clip=null", "trainer.max_steps=1"]
    with pytest.raises(Diverged, match=said):
        run_here(tmp_path, *words, "trainer.precision=fp32", f"sample.steps={samples}")
    summary = json.loads((folder_of(tmp_path) / "summary.json").read_text())
    assert summary["status"] == "diverged"


def test_two_owners_of_a_folder_are_refused(tmp_path: Path) -> None:
    run_here(tmp_path)
    with RunFolder(folder_of(tmp_path)).lock():
        with pytest.raises(Locked, match=f"in use by process {os.getpid()}"):
            run_here(tmp_path)
        assert run_there(tmp_path).returncode == 3


def test_signals_are_given_back_after_a_run(tmp_path: Path) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    run_here(tmp_path, "trainer.max_steps=2", "maps.steps=2")
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.slow
def test_muon_trains_and_resumes(tmp_path: Path) -> None:
    assert run_there(tmp_path, "optimizer=muon", kill=("clipping", 13)).returncode == -signal.SIGKILL
    run_here(tmp_path, "optimizer=muon")
    run_here(tmp_path, "optimizer=muon", "experiment_name=whole")
    ours, theirs = (
        load_checkpoint(folder_of(tmp_path, experiment=e) / "checkpoints" / f"step_{STEPS:08d}.ckpt")
        for e in ("default", "whole")
    )
    assert all(torch.equal(ours["state_dict"][name], theirs["state_dict"][name]) for name in ours["state_dict"])


@pytest.mark.slow
def test_variants_are_paired(tmp_path: Path) -> None:
    """Paired variants see the same batches and start alike."""
    weights = {}
    for variant in ("multi_head", "sliding_window", "gqa"):
        run_here(tmp_path, "trainer.max_steps=1", "maps.steps=2", "optimizer.lr=1e-12", variant=variant)
        folder = folder_of(tmp_path, variant)
        weights[variant] = load_checkpoint(folder / "checkpoints" / "step_00000001.ckpt")["state_dict"]
    for other in ("sliding_window", "gqa"):
        shared = [
            k
            for k, v in weights[other].items()
            if k in weights["multi_head"] and v.shape == weights["multi_head"][k].shape
        ]
        assert len(shared) > 10
        for name in shared:  # one update at a rate of 1e-12 moves nothing that float32 can see
            torch.testing.assert_close(weights[other][name], weights["multi_head"][name], rtol=0, atol=1e-9)


def test_a_run_that_cannot_be_found_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must be the folder of a run"):
        attnlab.load(tmp_path)


@pytest.mark.slow
def test_a_compiled_model_comes_to_the_same_loss(tmp_path: Path) -> None:
    plain = run_here(tmp_path, "trainer.precision=fp32", "model.dropout=0.0")
    compiled = run_there(
        tmp_path, "trainer.precision=fp32", "model.dropout=0.0", "trainer.compile=true", "experiment_name=c"
    )
    assert compiled.returncode == 0, compiled.stderr
    summary = json.loads((folder_of(tmp_path, experiment="c") / "summary.json").read_text())
    assert summary["val_loss"] == pytest.approx(plain["val_loss"], rel=1e-4)  # fused kernels round elsewhere
