"""Runs of several processes, on gloo: they go on with any number, bit for bit with the same, and none waits for ever.

Rounding alone moves AdamW's weights in float32, so other numbers of processes are compared in float64.
"""

import random
import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.launch import write_text
from tests.training.several import DIE, HANGS, RAISE, STOP, Crew, at, seed_folder, summary, weights

import attnlab
from attnlab.config.compose import compose_config
from attnlab.generation import generate
from attnlab.store.leaves import leaves
from attnlab.store.run_folder import RunFolder

pytestmark = pytest.mark.slow
NUMBERS, STRATEGIES = (1, 2, 4), ("ddp", "fsdp")
STEPS, HALF = 50, 25
LONG: dict[str, Any] = {"steps": STEPS, "every": HALF}
# One variant of a family each; all of them in the test below that is marked so.
FAMILIES = (
    "multi_head",
    "gqa",
    "mla",
    "cope",
    "sliding_window",
    "value_residual",
    "differential",
    "gated_delta",
    "mamba2",
    "rwkv7",
    "hybrid",
    "cross_layer",
)


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    crew = Crew()
    yield crew
    crew.close()


def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The largest difference between two sets of weights."""
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def rows(folder: Path, metric: str) -> list[float]:
    return [row.value for row in RunFolder(folder).read_metrics() if row.metric == metric]


@pytest.fixture(scope="module")
def whole(crew: Crew, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of one process in float64."""
    folder = tmp_path_factory.mktemp("whole")
    assert crew.fit(folder, 1, **LONG).codes == [0]
    return folder


@pytest.fixture(scope="module")
def halves(crew: Crew, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Path]:
    """The same, stopped in the middle by a signal to the last process, by strategy and number of processes."""
    folders = {}
    for strategy, n in [("ddp", 1), *product(STRATEGIES, NUMBERS[1:])]:
        folder = folders[strategy, n] = tmp_path_factory.mktemp(f"{strategy}{n}")
        ended = crew.fit(folder, n, strategy, codes={n - 1: at(HALF - 1, STOP)}, **LONG)
        assert ended.codes == [143] * n, ended
        assert f"after step {HALF} of {STEPS}" in ended.errors[0] and not any(ended.errors[1:])
    return {**folders, ("fsdp", 1): folders["ddp", 1]}


@pytest.mark.parametrize(
    ("before", "n", "after", "m"),
    [(s, n, s, m) for s, n, m in product(STRATEGIES, NUMBERS, NUMBERS)]
    + [("ddp", 2, "fsdp", 4), ("fsdp", 2, "ddp", 2)],
)
def test_resumed(
    before: str,
    n: int,
    after: str,
    m: int,
    whole: Path,
    halves: dict[tuple[str, int], Path],
    crew: Crew,
    tmp_path: Path,
) -> None:
    """Stopped with n processes and continued with m, a run comes to the weights of one that was not disturbed."""
    shutil.copytree(halves[before, n], tmp_path, dirs_exist_ok=True)
    ended = crew.fit(tmp_path, m, after, **LONG)
    assert ended.codes == [0] * m, ended
    assert apart(weights(tmp_path), weights(whole)) < 1e-6
    for metric in ("train/loss", "val/loss"):
        assert rows(tmp_path, metric) == pytest.approx(rows(whole, metric), rel=1e-9)


@pytest.mark.parametrize(("strategy", "n", "kills"), [("ddp", 2, 15), ("fsdp", 2, 10), ("ddp", 4, 3), ("fsdp", 4, 2)])
def test_killed_bit_for_bit(strategy: str, n: int, kills: int, crew: Crew, tmp_path: Path) -> None:
    """A run of which any process is killed at any step comes, with as many again, to the bits of one that was not."""
    undisturbed = tmp_path / "undisturbed"
    settings: dict[str, Any] = {"dtype": torch.float32}
    assert crew.fit(undisturbed, n, strategy, **settings).codes == [0] * n
    draw = random.Random(n)
    for kill in range(kills):
        folder, step, rank = tmp_path / str(kill), draw.randrange(1, 12), draw.randrange(n)
        ended = crew.fit(folder, n, strategy, codes={rank: at(step, DIE)}, **settings)
        assert ended.codes[rank] == -9 and all(code == 1 for i, code in enumerate(ended.codes) if i != rank), ended
        said = [error for error in ended.errors if error]
        assert len(said) == 1 and f"process {rank} is gone after step {step}" in said[0], said
        assert crew.fit(folder, n, strategy, **settings).codes == [0] * n
        assert apart(weights(folder), weights(undisturbed)) == 0
        assert rows(folder, "train/loss") == rows(undisturbed, "train/loss")


# Kills its process before the nth call of something.
DIES_BEFORE = """
import os, signal
from attnlab.store.checkpoints import CheckpointFolder
from attnlab.training import sharding
from attnlab.training.module import LanguageModel
usual, calls = {owner}.{name}, []
def dies(*args, **kwargs):
    calls.append(0)
    if len(calls) == {nth}:
        os.kill(os.getpid(), signal.SIGKILL)
    return usual(*args, **kwargs)
{owner}.{name} = dies
"""


@pytest.mark.parametrize(
    ("owner", "name", "nth", "rank"),
    [
        ("LanguageModel", "validation_step", 2, 1),
        ("LanguageModel", "validation_step", 2, 0),
        ("sharding", "_digests", 2, 1),  # its parts stand there, and nobody knows of them
        ("sharding.dcp", "save", 2, 0),  # the folder is empty
        ("CheckpointFolder", "_list", 2, 0),  # all is there but the manifest
    ],
)
def test_killed_beside_a_step(owner: str, name: str, nth: int, rank: int, crew: Crew, tmp_path: Path) -> None:
    """Also while it validates or writes a checkpoint in parts, of which what is half there is never taken."""
    for folder, codes in (("a", {}), ("b", {rank: DIES_BEFORE.format(owner=owner, name=name, nth=nth)})):
        ended = crew.fit(tmp_path / folder, 2, "fsdp", codes=codes, dtype=torch.float32)
        assert ended.codes == ([0, 0] if not codes else [-9, 1] if rank == 0 else [1, -9]), ended
    assert crew.fit(tmp_path / "b", 2, "fsdp", dtype=torch.float32).codes == [0, 0]
    assert apart(weights(tmp_path / "a"), weights(tmp_path / "b")) == 0
    for metric in ("train/loss", "val/loss"):
        assert rows(tmp_path / "a", metric) == rows(tmp_path / "b", metric)


def test_dropout_bit_for_bit(crew: Crew, tmp_path: Path) -> None:
    """With dropout as many processes draw what they drew."""
    for name, codes in (("a", {}), ("b", {0: at(6, STOP)})):
        crew.fit(tmp_path / name, 2, codes=codes, dropout=0.2)
    assert crew.fit(tmp_path / "b", 2, dropout=0.2).codes == [0, 0]
    assert apart(weights(tmp_path / "a"), weights(tmp_path / "b")) == 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_accumulated(strategy: str, crew: Crew, tmp_path: Path) -> None:
    """Batches that make an update together, and a validation that does not come out even."""
    for n in (1, 4):
        assert crew.fit(tmp_path / str(n), n, strategy, accumulate=3).codes == [0] * n
    assert apart(weights(tmp_path / "1"), weights(tmp_path / "4")) < 1e-6
    for metric in ("train/loss", "val/loss", "optim/grad_norm"):
        assert rows(tmp_path / "4", metric) == pytest.approx(rows(tmp_path / "1", metric), rel=1e-9)


def test_first_gradient_in_float32(crew: Crew, tmp_path: Path) -> None:
    """In float32 the first gradient is that of one process to 1e-6, and the loss stays within 1e-3 of its."""
    for name, n, strategy in (("one", 1, "ddp"), ("ddp", 4, "ddp"), ("fsdp", 4, "fsdp")):
        assert crew.fit(tmp_path / name, n, strategy, dtype=torch.float32, **LONG).codes == [0] * n
    for name in STRATEGIES:
        norms, ours = rows(tmp_path / "one", "optim/grad_norm"), rows(tmp_path / name, "optim/grad_norm")
        assert ours[0] == pytest.approx(norms[0], rel=1e-6)
        assert rows(tmp_path / name, "train/loss") == pytest.approx(rows(tmp_path / "one", "train/loss"), abs=1e-3)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("variant", FAMILIES)
def test_variants(variant: str, strategy: str, crew: Crew, tmp_path: Path) -> None:
    """Variants of many families train with two processes as with one, and load on one CPU."""
    check_variant(variant, strategy, crew, tmp_path)


@pytest.mark.parametrize("variant", sorted({path.stem for path in Path("configs/attention").glob("*.yaml")}))
def test_every_variant(variant: str, crew: Crew, tmp_path: Path) -> None:
    """And all that are shipped, in parts."""
    check_variant(variant, "fsdp", crew, tmp_path)


IS_EMPTY = """
from attnlab.training import run
usual = run._network
def network(prepared):
    model = usual(prepared)
    assert all(p.is_meta for p in model.parameters())
    return model
run._network = network
"""


@pytest.mark.parametrize(
    "settings",
    [
        {"model.tie": "true"},
        {"position": "t5", "trainer.precision": "bf16-true"},
        {"attention": "linear", "attention/feature_map": "random"},
    ],
)
def test_only_the_first_has_it_whole(settings: dict[str, str], crew: Crew, tmp_path: Path) -> None:
    """A process that is to have parts of a model never builds it; the first gives it parameters, alias and buffers.

    Then it is the model of one process: the first loss, which nothing has rounded yet, is the same.
    """
    settings = {"trainer.max_steps": "4", "trainer.precision": "fp64", **settings}
    losses, after = [], []
    for n in (1, 2):
        ended = crew.run(tmp_path / str(n), n, "fsdp", settings, {1: IS_EMPTY} if n > 1 else {})
        assert ended.codes == [0] * n, ended
        losses.append(rows(seed_folder(tmp_path / str(n)), "val/loss"))
        after.append(weights(seed_folder(tmp_path / str(n))))
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-12 if settings["trainer.precision"] == "fp64" else 1e-3)
    assert apart(*after) < (1e-6 if settings["trainer.precision"] == "fp64" else 0.05)


def check_variant(variant: str, strategy: str, crew: Crew, tmp_path: Path) -> None:
    settings = {"attention": variant, "trainer.max_steps": "3", "trainer.precision": "fp64", "model.d_model": "32"}
    for key, value in leaves(compose_config([f"attention={variant}"]).attention):
        if key.endswith("dropout") and value:  # each process would draw its own
            settings[f"attention.{key}"] = "0.0"
    folders = []
    for n in (1, 2):
        ended = crew.run(tmp_path / str(n), n, strategy, settings)
        assert ended.codes == [0] * n, ended
        folders.append(seed_folder(tmp_path / str(n)))
    assert apart(*map(weights, folders)) < 1e-6
    model, tokenizer = attnlab.load(folders[1])
    ids = torch.tensor(tokenizer.encode_prompt("1 times"))
    assert len(list(generate(model, ids, tokens=4, temperature=0.0, top_k=None, seed=0))) == 4


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_muon(strategy: str, crew: Crew, tmp_path: Path) -> None:
    """Muon sees whole matrices: its iteration in bfloat16 gives with parts what it gives without."""
    settings = {"trainer.max_steps": "10", "trainer.precision": "fp64"}
    for n in (1, 2):
        ended = crew.run(tmp_path / str(n), n, strategy, {"optimizer": "muon", **settings})
        assert ended.codes == [0] * n, ended
    one, two = (weights(seed_folder(tmp_path / str(n))) for n in (1, 2))
    assert apart(one, two) < 1e-4  # where a number is rounded the other way


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_files_of_one_process(strategy: str, crew: Crew, tmp_path: Path) -> None:
    """Maps, samples, other lengths, accumulated batches and uneven validation: as with one process, once each."""
    settings = {
        "trainer.accumulate": "2",
        "trainer.val_every": "5",
        "trainer.max_steps": "10",
        "trainer.precision": "fp64",
        "maps.steps": "3",
        "sample.steps": "2",
        "sample.tokens": "4",
        "evaluation.lengths": "[2]",
    }
    for n in (1, 2):
        ended = crew.run(tmp_path / str(n), n, strategy, settings)
        assert ended.codes == [0] * n and not any(ended.out[1:]), ended
    one, two = (seed_folder(tmp_path / str(n)) for n in (1, 2))
    assert one.parent.name == two.parent.name, "how many processes there are does not say which run it is"
    table, theirs = ({(r.step, r.metric): r.value for r in RunFolder(p).read_metrics()} for p in (two, one))
    assert table.keys() == theirs.keys()
    for key, value in theirs.items():
        if not key[1].startswith("perf/"):
            assert table[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key  # maps are kept in half precision
    assert {p.name for p in one.rglob("*.safetensors") if "parts" not in p.parent.name} == {
        p.name for p in two.rglob("*.safetensors") if "parts" not in p.parent.name
    }


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_own_error(strategy: str, crew: Crew, tmp_path: Path) -> None:
    """What fails in one process ends all with its exit code and one line, which names the process."""
    ended = crew.fit(tmp_path, 2, strategy, codes={1: at(5, RAISE)})
    assert ended.codes == [1, 1], ended
    assert "process 1 failed (" in ended.errors[0] and "No space left on device" in ended.errors[0]
    assert crew.fit(tmp_path, 2, strategy).codes == [0, 0]


# Puts settings of its own behind the others of its command.
OTHERWISE = """
import attnlab
usual = attnlab.train
def train(settings):
    attnlab.train = usual
    return usual([*settings, {own!r}])
attnlab.train = train
"""
OTHER_CODE = """
from attnlab.training import prepare
usual = prepare.code_of
def code_of(*of):
    prepare.code_of = usual
    code = usual(*of)
    return code._replace(modules={**code.modules, "attnlab.model": "0" * 64})
prepare.code_of = code_of
"""
FULL = """
from attnlab.training import prepare
usual = prepare.load_dataset
def load_dataset(*of):
    prepare.load_dataset = usual
    raise OSError(28, "No space left on device", "cache/tokens")
prepare.load_dataset = load_dataset
"""
QUICKLY = """
from attnlab.training import run
run.UNSEEN = 0.5
"""


@pytest.mark.parametrize(
    ("code", "line"),
    [
        (OTHERWISE.format(own="data.path={folder}/other.txt"), "differs in data.sha256 ("),
        (OTHERWISE.format(own="trainer.val_every=50"), "differs in trainer.val_every (50, and 100 in the first)"),
        (OTHERWISE.format(own="sample.steps=2"), "differs in sample.steps (2, and 0 in the first)"),
        (OTHER_CODE, "differs in code (changed: attnlab.model)"),
        (QUICKLY + OTHERWISE.format(own="paths.runs={folder}/elsewhere"), "process 1 does not see "),
    ],
)
def test_one_differs(code: str, line: str, crew: Crew, tmp_path: Path) -> None:
    """A process with another file, setting, code or folder of runs is named before the first step."""
    (tmp_path / "other.txt").write_text(write_text(tmp_path).read_text().replace("7 times", "8 times"))
    ended = crew.run(tmp_path, 2, "fsdp", codes={1: code.replace("{folder}", str(tmp_path))})
    assert ended.codes == [2, 2] and ended.errors[1] == "" and line in ended.errors[0], ended
    assert crew.run(tmp_path, 2, "fsdp").codes == [0, 0], "nothing is in the way of the right command"


@pytest.mark.parametrize(
    ("rank", "code", "exits", "line"),
    [
        (1, OTHERWISE.format(own="data.path=nowhere.txt"), 2, "process 1 failed (data.path (nowhere.txt)"),
        (1, FULL, 1, "process 1 failed (cache/tokens: No space left on device"),
        (0, FULL, 1, "cache/tokens"),
    ],
)
def test_one_cannot_begin(rank: int, code: str, exits: int, line: str, crew: Crew, tmp_path: Path) -> None:
    """What one process alone lacks before it has met the others ends all, in one line that says it."""
    ended = crew.run(tmp_path, 2, codes={rank: code})
    assert ended.codes == [exits, exits] and ended.errors[1] == "" and line in ended.errors[0], ended


LOCKED = """
from attnlab.errors import Locked
from attnlab.store.leaves import leaves
from attnlab.store.run_folder import RunFolder
def lock(self):
    raise Locked("another command works here")
RunFolder.lock = lock
"""


def test_the_first_never_joins(crew: Crew, tmp_path: Path) -> None:
    """What ends the first process before it meets the others ends them at once, and not when they have waited."""
    ended = crew.run(tmp_path, 2, "ddp", {"trainer.timeout": "30"}, {0: LOCKED})
    assert ended.codes == [3, 3] and ended.errors == ["another command works here", ""], ended


DEAF = """
import os, socket
deaf = socket.create_server(("127.0.0.1", 0))
os.environ["MASTER_PORT"] = str(deaf.getsockname()[1])
"""


def test_nobody_answers(crew: Crew, tmp_path: Path) -> None:
    """A process that meets a program that says nothing, and one that waits for it, end in time."""
    ended = crew.run(tmp_path, 2, "ddp", {"trainer.timeout": "0.05"}, {1: DEAF})
    assert ended.codes == [1, 1], ended
    assert "process 0 of 2 did not meet the others (MASTER_ADDR=127.0.0.1, MASTER_PORT=" in ended.errors[0]


def test_hung_process(crew: Crew, tmp_path: Path) -> None:
    """One that does nothing for trainer.timeout ends all, and is named with its step."""
    said = tmp_path / "said"  # by a thread, and so by the process itself
    to_file = f"import os; os.dup2(os.open({str(said)!r}, os.O_WRONLY | os.O_CREAT), 2)"
    ended = crew.fit(tmp_path, 2, codes={0: to_file, 1: at(5, HANGS)}, minutes=0.1)
    assert ended.codes == [1, 1], ended
    assert "process 1 has done nothing for 0.1 minutes (trainer.timeout; after step 5" in said.read_text()


def test_dropout(crew: Crew, tmp_path: Path) -> None:
    """With dropout another number of processes is refused in one line; what started the run goes on."""
    settings = {"model.dropout": "0.2"}
    assert crew.run(tmp_path, 2, "ddp", settings, {0: at(6, STOP)}).codes == [143, 143]
    refused = crew.run(tmp_path, 4, "ddp", settings)
    assert refused.codes == [2] * 4 and "must be 2, as in" in refused.errors[0] and not any(refused.errors[1:])
    ended = crew.run(tmp_path, 2, "ddp", settings)
    assert ended.codes == [0, 0] and "continuing after step 7 of 12" in ended.out[0] and not ended.out[1]
    assert summary(tmp_path)["processes"] == [{"from_step": 0, "strategy": "ddp", "world_size": 2, "nodes": 1}]


def test_parts_are_checked(crew: Crew, tmp_path: Path) -> None:
    """A checkpoint in parts of which one was changed, or that a kill has left half written, is passed over."""
    assert crew.fit(tmp_path, 2, "fsdp", codes={0: at(10, STOP)}).codes == [143, 143]
    folder = RunFolder(tmp_path).checkpoints
    newest, _ = folder.newest()
    assert newest is not None and newest.name == "step_00000011.parts"
    (folder.path / "step_00000012.parts").mkdir()  # not listed: a save that was cut off
    assert folder.newest()[0] == newest
    part = sorted(newest.glob("*.safetensors"))[0]
    data = bytearray(part.read_bytes())
    data[-1] ^= 1
    part.write_bytes(data)
    older, problems = folder.newest()
    assert older is not None and older.name == "step_00000008.parts" and part.name in problems[0]
    ended = crew.fit(tmp_path, 2, "fsdp")
    assert ended.codes == [0, 0], ended
    assert [path.name for path in folder.files()] == ["step_00000011.parts", "step_00000012.parts"]


def test_refused(crew: Crew, tmp_path: Path) -> None:
    """What does not go with several processes is refused by name before anything is written."""
    for settings, line in (
        ({"batch_size": "3"}, "batch_size (3) must be a multiple of trainer.devices (2)"),
        ({"trainer.compile": "true"}, "trainer.compile (true) does not go with trainer.strategy=fsdp"),
    ):
        ended = crew.run(tmp_path, 2, "fsdp", settings)
        assert ended.codes == [2, 2] and line in ended.errors[0] and not any(ended.errors[1:]), ended
    assert not (tmp_path / "runs").exists()
