"""Every task: solved exactly by a reader of its inputs, a pure function of its arguments, refused where impossible."""

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import get_class

from attnlab.build import instantiate
from attnlab.config.compose import compose_config
from attnlab.config.keys import config_dir
from attnlab.config.run_config import RunConfig
from attnlab.data.datamodule import TextDataModule
from attnlab.data.dataset import IGNORED
from attnlab.data.predictors import Rows, by_count, by_distance, by_place, most_frequent
from attnlab.data.stored_tokenizers import from_json
from attnlab.data.task import Task, _hash, _held_out
from attnlab.data.tasks.backcopy import Backcopy
from attnlab.data.tasks.compression import Compression
from attnlab.data.tasks.counting import Counting
from attnlab.data.tasks.fuzzy_recall import FuzzyRecall
from attnlab.data.tasks.icl_bigram import ICLBigram
from attnlab.data.tasks.induction import Induction
from attnlab.data.tasks.memorization import Memorization
from attnlab.data.tasks.mqar import MQAR
from attnlab.data.tasks.needle import Needle
from attnlab.data.tasks.parity import Parity
from attnlab.data.tasks.recall import Recall
from attnlab.data.tasks.s5 import S5
from attnlab.data.tasks.selective_copy import SelectiveCopy
from attnlab.errors import UsageError
from attnlab.laws import documentation

# Each solver answers after a prefix of a row, from the names of its tokens alone. It is asked only where an answer is
# wanted, and told nothing else.


def after_the_same(row: Sequence[str]) -> str:
    """The token that followed the last one when it first stood there."""
    return row[row.index(row[-1]) + 1]


def copied(row: Sequence[str]) -> str:
    """The tokens that are neither blank nor question, in order."""
    said = [name for name in row if name not in (".", "?")]
    return said[row.count("?") - 1]


def by_motif(row: Sequence[str]) -> str:
    words = [list(part) for _, part in itertools.groupby(row, key=lambda name: name[0])]
    if words[-1][0][0] == "v":  # in the middle of a value: the key is the run before
        key, done = words[-2], len(words[-1])
        earlier = words[:-2]
    else:
        key, done, earlier = words[-1], 0, words[:-1]
    return earlier[next(i for i, word in enumerate(earlier) if word == key) + 1][done]


def parity(row: Sequence[str]) -> str:
    return str(list(row).count("1") % 2)


def composed(row: Sequence[str]) -> str:
    """Where each place ends up, by moving things about."""
    where = list(range(len(row[0])))
    for name in row:
        where = [int(name[place]) - 1 for place in where]
    return "".join(str(place + 1) for place in where)


def noted(row: Sequence[str]) -> str:
    """The value behind the mark and the asked word."""
    places = [i for i in range(len(row) - 2) if row[i] == "M" and row[i + 1] == row[-1]]
    return row[places[0] + 2]


def executed(row: Sequence[str]) -> str:
    values: dict[str, int] = {}
    for statement in row[:-1]:
        if statement.endswith("=0"):
            values[statement[0]] = 0
        elif statement.endswith("++"):
            values[statement[0]] += 1
    return str(values[row[-1][0]])


SOLVERS: dict[str, Callable[[Sequence[str]], str]] = {
    "mqar": after_the_same,
    "induction": after_the_same,
    "selective_copy": copied,
    "recall": after_the_same,
    "noisy_recall": after_the_same,
    "fuzzy_recall": by_motif,
    "compression": copied,
    "parity": parity,
    "s5": composed,
    "needle": noted,
    "counting": executed,
}
BY_LOSS = (
    "backcopy",
    "icl_bigram",
    "memorization",
)  # whose best guesses are often wrong: their exact loss has tests of its own
ALL = [*SOLVERS, *BY_LOSS]


TARGETS = {
    file.stem: match[1]
    for file in sorted((config_dir() / "data").glob("*.yaml"))
    if (match := re.search(r"_target_: (attnlab\.data\.tasks\.\S+)", file.read_text(encoding="utf-8")))
}


@pytest.mark.parametrize("name", TARGETS)
def test_has_solver(name: str) -> None:
    """A YAML that names a task comes with a solver, or with the reason why its answers cannot be known."""
    assert name in ALL, f"{name}: no solver in SOLVERS, and no reason in BY_LOSS why there is none"


def test_missing_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that is forgotten is named, and none is there that no YAML names."""
    assert set(ALL) <= TARGETS.keys()
    monkeypatch.setitem(globals(), "ALL", [name for name in ALL if name != "s5"])
    with pytest.raises(AssertionError, match="s5: no solver"):
        test_has_solver("s5")


@pytest.mark.parametrize("name", TARGETS)
def test_source(name: str) -> None:
    """A task names the paper, or the program, that it is taken from."""
    text = get_class(TARGETS[name]).__doc__ or ""
    assert documentation.SOURCE.search(text), f"{name}: the docstring names no source (arXiv and a number, or Source:)"


@cache
def composed_for(*words: str) -> RunConfig:
    """A config; composing it is what takes time here."""
    return compose_config(words)


def task(name: str, **settings: Any) -> tuple[Task, int]:
    """A shipped task, made anew with some settings changed, and the length of its rows."""
    config = composed_for(f"data={name}")
    found = instantiate(replace(config, data=config.data | settings), "data")
    assert isinstance(found, Task)
    return found, config.model.context


def accuracy(found: Task, rows: Rows, solver: Callable[[Sequence[str]], str]) -> float:
    right = []
    for row, at in np.argwhere(rows.asked):
        prefix = [found.names[i] for i in rows.inputs[row, : at + 1]]
        right.append(solver(prefix) == found.names[rows.targets[row, at]])
    return float(np.mean(right))


@pytest.mark.parametrize("name", SOLVERS)
def test_solver_reaches_the_ceiling(name: str) -> None:
    """A reader of the inputs reaches the ceiling."""
    found, length = task(name, val_rows=12)
    for longer in (length, 2 * length + 1):
        assert accuracy(found, found.validation(longer), SOLVERS[name]) == found.best(longer).accuracy == 1.0


@pytest.mark.parametrize(
    ("found", "length", "solver"),
    [
        (MQAR(64, 5, random_non_queries=False, power=1.0), 23, after_the_same),
        (Induction(8, n_questions=3), 17, after_the_same),
        (Parity("each"), 9, parity),
        (S5(3), 9, composed),
        (Needle(16, n_needles=4), 21, noted),
        (Counting(5, most=2), 40, executed),
        (Recall(3, 3, 2, 0.5), 11, after_the_same),
        (FuzzyRecall(3, 3, 2, 1), 12, by_motif),
        (SelectiveCopy(4, 1), 2, copied),
        (Compression(3), 7, copied),  # an odd row shows one more than it asks
    ],
)
def test_other_settings_are_solved_too(found: Task, length: int, solver: Callable[[Sequence[str]], str]) -> None:
    found.check_context(length)
    assert accuracy(found, found.validation(length), solver) == 1.0


def test_facts() -> None:
    """Facts are the same in all rows and different for other facts."""
    first, length = task("memorization")
    rows = first.validation(length)
    row, at = np.argwhere(rows.asked).T
    pairs = set(zip(rows.inputs[row, at - 1].tolist(), rows.targets[row, at].tolist(), strict=True))
    assert len({key for key, _ in pairs}) == len(pairs) == len({value for _, value in pairs}) == 127
    assert (rows.inputs[row, at] == 0).all()
    assert isinstance(first, Memorization)
    assert (Memorization(facts=1).value_of != first.value_of).mean() > 0.9


# Bigrams: the Bayes loss is exact


def test_bayes_posterior() -> None:
    """Integrating over a grid of chains with two states gives the same numbers as counting from one."""
    found, row = ICLBigram(2), np.array([[0, 1, 1, 0, 1, 0, 0]])
    said = found.bayes(row)[0]
    grid = (np.arange(2000) + 0.5) / 2000  # of p(1 | state)
    for t in range(row.size):
        ones = sum(1 for i in range(t) if row[0, i] == row[0, t] and row[0, i + 1] == 1)
        all_ = sum(1 for i in range(t) if row[0, i] == row[0, t])
        likelihood = grid**ones * (1 - grid) ** (all_ - ones)
        assert said[t, 1] == pytest.approx((grid * likelihood).sum() / likelihood.sum(), abs=1e-6)


def test_bayes_loss() -> None:
    """Nothing beats the Bayes loss and the unigram does not."""
    found = ICLBigram(3, val_rows=512)
    rows = found.validation(64)
    best, floor = found.best(64), found.floor(64)
    assert best.loss < floor.loss < math.log(3) and floor.loss_predictor == "by_count"
    for weight in (0.5, 2.0, 5.0):  # bolder or more careful
        mixed = found.bayes(rows.inputs) ** (1 / weight)
        mixed /= mixed.sum(axis=2, keepdims=True)
        picked = np.take_along_axis(mixed, rows.targets[..., None], axis=2)
        assert -np.log(picked).mean() > best.loss


@pytest.mark.parametrize("found", [ICLBigram(4), Backcopy(8, 2)])
def test_rows_of_bigrams_go_on_where_they_stopped(found: Task) -> None:
    rows = found.validation(20)
    assert (rows.inputs[:, 1:] == rows.targets[:, :-1]).all()


def test_backcopy() -> None:
    """After a token of kind t comes the one before it, which no chain of pairs tells; the rest follows it."""
    found = Backcopy(8, 2, val_rows=2048)
    rows = found.validation(24)
    copies = [(row, at) for row, at in np.argwhere(rows.inputs < 2)]
    assert len(copies) > 1000 and all(at > 0 and rows.inputs[r, at - 1] == rows.targets[r, at] for r, at in copies)
    assert {int(rows.slices[r, at]) for r, at in copies} == {1} and (rows.slices[rows.inputs >= 2] == 0).all()
    plain = rows.inputs >= 2
    for state in range(2, 8):
        share = np.bincount(rows.targets[plain & (rows.inputs == state)], minlength=8)
        assert share / share.sum() == pytest.approx(found.chain[state], abs=0.03)
    best = found.best(24)
    assert best.loss < found.floor(24).loss and best.accuracy > found.floor(24).accuracy
    guessed = found.probabilities(rows) * 0.9 + 0.1 / 8  # more careful
    picked = np.take_along_axis(guessed, rows.targets[..., None], axis=2)
    assert -np.log(picked).mean() > best.loss


# Floors


@pytest.mark.parametrize("name", ["memorization", "s5", "needle", "parity", "induction", "compression"])
def test_floor_answers_are_even(name: str) -> None:
    """Nothing is to be had from which answers are frequent."""
    found, length = task(name)
    fit, rows = (found._draw("floor", 0, part, 2048, length) for part in (0, 1))
    even = 1 / len(found.answers)
    assert most_frequent(fit, rows, found.answers).accuracy == pytest.approx(even, abs=0.01 + even / 8)


@pytest.mark.parametrize(
    ("cell", "least", "predictors"),
    [
        ("noisy_recall", 0.53, {"by_count"}),
        ("induction", 0.39, {"by_count"}),
        ("mqar", 0.36, {"by_place", "by_distance"}),
        ("selective_copy", 0.39, {"by_count"}),
        ("s3", 1 / 6 + 5 / 6 / 16 - 0.02, {"by_place", "by_distance", "by_count"}),
    ],
)
def test_floor_of_card(cell: str, least: float, predictors: set[str]) -> None:
    """What a mixer that chooses nothing learns (uniform attention: .556 and .427) is no mechanism, but the floor."""
    config = compose_config([f"+card={cell}"])
    found = instantiate(config, "data")
    floor = found.floor(config.model.context)
    assert least < floor.accuracy < least + 0.08 and floor.predictor in predictors


def test_floor_loss_of_mqar() -> None:
    """To see which values there are but not beside which key: one of four."""
    found, length = task("mqar")
    rows = found.validation(length)
    row, at = np.argwhere(rows.asked).T
    shown = rows.inputs[row][:, 1:8:2]
    assert (shown == rows.targets[row, at][:, None]).sum(axis=1).tolist() == [1] * len(row)
    floor = found.floor(length)
    assert floor.loss == pytest.approx(math.log(4), abs=0.005) and floor.loss_predictor == "by_count"


def test_predictors_by_hand() -> None:
    """Tokens 1 to 3 may answer; the answer after the last token is the first one of the row."""
    targets = np.full((4, 4), IGNORED)
    targets[:, 3] = [1, 2, 3, 1]
    inputs = np.array([[1, 2, 2, 0], [2, 1, 1, 0], [3, 0, 3, 0], [1, 1, 3, 0]])
    rows = Rows(inputs, targets, np.zeros_like(targets))
    answers = range(1, 4)
    assert most_frequent(rows, rows, answers).accuracy == 0.5
    assert by_place(rows, rows, answers).accuracy == by_distance(rows, rows, answers).accuracy == 1.0
    assert by_count(rows, rows, answers).accuracy == 0.5, "2 and 1 in the first rows are the others"
    ties = Rows(np.array([[1, 2, 0, 0]]), targets[:1], np.zeros((1, 4), int))
    assert by_count(rows, ties, answers).accuracy == 0.5


def test_predictors_are_scored_on_other_rows() -> None:
    """What is fitted to noise is not counted: with as many places as rows, some place is always right on these."""
    rng = np.random.default_rng(0)

    def noise() -> Rows:
        targets = np.full((64, 65), IGNORED)
        targets[:, -1] = rng.integers(1, 9, size=64)
        return Rows(rng.integers(1, 9, size=(64, 65)), targets, np.zeros_like(targets))

    fits = [noise() for _ in range(20)]
    same = np.mean([by_place(rows, rows, range(1, 9)).accuracy for rows in fits])
    other = np.mean([by_place(rows, noise(), range(1, 9)).accuracy for rows in fits])
    assert same > 0.2 and other == pytest.approx(1 / 8, abs=0.04)


# Rows of validation and of training


def hashes(inputs: Any) -> set[int]:
    return set(_hash(np.asarray(inputs)).tolist())


@pytest.mark.parametrize("name", ALL)
def test_training_shows_no_validation_row(name: str) -> None:
    """Whatever the seeds; and validation rows are others for another seed."""
    found, length = task(name, val_rows=64)
    first, second = (hashes(found.validation(length, seed).inputs) for seed in (0, 1))
    assert len(first & second) <= 2 and found.overlap(length) == 0.0
    for seed, step in itertools.product((0, 1), range(3)):
        shown = found.train_batch(seed=seed, step=step, batch_size=64, context=length)[0].numpy()
        assert not _held_out(_hash(shown)).any()
        assert not (first | second) & hashes(shown)
    assert _held_out(_hash(found.validation(length, 1).inputs)).all()


def test_card_parity_is_new() -> None:
    """800 batches show nearly all rows of 16 bits that there are for training, and none of the others."""
    found = Parity("each")
    shown = set[int]()
    for step in range(100):
        shown |= hashes(found.train_batch(seed=0, step=step, batch_size=512, context=16)[0])
    assert len(shown) > 30_000 and not shown & hashes(found.validation(16, 3).inputs)
    assert np.mean(found.validation(16).targets == 3) == pytest.approx(0.5, abs=0.02)


def test_too_few_rows() -> None:
    """16 rows cannot be parted; then it is said how many of the validation rows training shows."""
    found = Parity("each")
    assert not found.parted(4) and found.overlap(4) == 1.0
    assert "1,024 validation rows, 100% of which training can show, too" in found.describe(4)
    assert "none of which training shows" in found.describe(16)
    assert found.train_batch(seed=0, step=0, batch_size=512, context=4)[0].unique(dim=0).size(0) == 16


def test_held_out_rows_are_one_in_eight() -> None:
    found, length = task("recall")
    drawn = found._draw("floor", 0, 9, 8192, length).inputs
    assert _held_out(_hash(drawn)).mean() == pytest.approx(1 / 8, abs=0.015)


def test_first_validation_rows_stay() -> None:
    """More of them do not change the first ones, nor does what was asked for before."""
    few, length = task("needle", val_rows=40)
    many, _ = task("needle", val_rows=64)
    many.__dict__["val_rows"] = 40  # of the same contents hash
    assert few.sha256 == many.sha256
    many.val_batch(np.array([3]), context=2 * length, seed=5)
    batch = many.val_batch(np.array([35, 2]), context=length, seed=1)[0].numpy()
    assert (batch == few.validation(length, 1).inputs[[35, 2]]).all()


# A pool of training rows, and rows of many lengths


def test_pool() -> None:
    """So many different rows, each once before any comes again, whatever the batch; and they are the seed's own."""
    found, length = task("recall", pool=24)
    shown = [
        row
        for step in range(9)
        for row in found.train_batch(seed=1, step=step, batch_size=8, context=length)[0].tolist()
    ]
    epochs = [{tuple(row) for row in shown[first : first + 24]} for first in (0, 24, 48)]
    assert len(epochs[0]) == 24 and epochs[0] == epochs[1] == epochs[2]
    assert shown[:24] != shown[24:48], "in another order"
    alone = [found.train_batch(seed=1, step=i, batch_size=1, context=length)[0][0].tolist() for i in range(24)]
    assert alone == shown[:24]
    other = hashes(found.training_pool(length, 2).inputs)
    assert len(other) == 24 and not other & hashes(np.array(shown))
    assert not other & hashes(found.validation(length).inputs)
    assert found.epochs(60, length) == 2.5 and task("recall")[0].epochs(60, length) is None


def test_pool_grows() -> None:
    """A larger pool holds the smaller one, and both are judged by the same rows, as is training without any."""
    (few, length), (many, _), (endless, _) = (task("needle", **s) for s in ({"pool": 16}, {"pool": 400}, {}))
    assert (many.training_pool(length).inputs[:16] == few.training_pool(length).inputs).all()
    assert (few.validation(length).inputs == endless.validation(length).inputs).all()
    assert len({each.sha256 for each in (few, many, endless)}) == 3


def test_pool_that_cannot_be_filled() -> None:
    """16 rows there are in all; and of a pool it is said which share of the validation rows it shows."""
    with pytest.raises(
        UsageError, match=r"data\.pool \(17\) must be at most 16: there are no more different rows of 4"
    ):
        Parity("each", pool=17).training_pool(4)
    half = Parity("each", pool=8, val_rows=512)
    assert 0.3 < half.overlap(4) < 0.7 and Parity("each", pool=16).overlap(4) == 1.0
    assert half.overlap(4, data_seed=1) != half.overlap(4)
    assert "8 of them to train on" in half.describe(4)


@pytest.mark.parametrize("name", ALL)
def test_lengths(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every length comes about as often, answers are what the solver says, and validation rows stay what they were."""
    settings = {"answer": "each"} if name == "parity" else {}
    usual, context = task(name, **settings)
    least = usual.shortest() if usual.shortest() < context else context // 2
    found, _ = task(name, **settings, min_length=least)
    found.check_context(context)
    assert (found.validation(context).inputs == usual.validation(context).inputs).all()
    drawn, draw = dict[int, int](), found.draw

    def counted(rng: np.random.Generator, rows: int, length: int) -> Rows:
        drawn[length] = drawn.get(length, 0) + rows
        return draw(rng, rows, length)

    monkeypatch.setattr(found, "draw", counted)
    batch = found.train_batch(seed=0, step=0, batch_size=2048, context=context)
    assert {*drawn} <= {*range(least, context + 1)} and len(drawn) > 0.9 * (context + 1 - least)
    mean = sum(length * rows for length, rows in drawn.items()) / sum(drawn.values())
    assert mean == pytest.approx((least + context) / 2, abs=(context - least) / 16)
    rows = Rows(batch.ids.numpy(), batch.targets.numpy(), np.zeros(batch.ids.shape, int))
    assert rows.asked.any(axis=1).all() and not _held_out(_hash(rows.inputs)).any()
    if name in SOLVERS:
        assert accuracy(found, Rows(*(part[:12] for part in rows)), SOLVERS[name]) == 1.0


def test_lengths_of_a_prefix() -> None:
    """Where every position is asked, a short row begins as a long one: the answers up to there are right."""
    found = S5(3, min_length=2)
    batch = found.train_batch(seed=0, step=0, batch_size=64, context=8)
    lengths = (batch.targets != IGNORED).sum(dim=1)
    assert {*lengths.tolist()} == {*range(2, 9)}
    assert all(
        (row[:n] != IGNORED).all() and (row[n:] == IGNORED).all() for row, n in zip(batch.targets, lengths, strict=True)
    )


def test_both() -> None:
    """A pool of rows of many lengths is one pool: the same rows in every epoch."""
    found = Parity("each", pool=30, min_length=4)
    first, second = (
        {tuple(row) for row in found.train_batch(seed=0, step=i, batch_size=30, context=16).ids.tolist()}
        for i in (0, 1)
    )
    assert len(first) == 30 and first == second and len({sum(id != 0 for id in row) for row in first}) > 6


# Settings of the papers


def test_mqar_has_the_settings_of_zoology() -> None:
    """Keys 1 .. 4095 and values 4096 .. 8191, each once; pairs first; questions at even distances; blanks are 0."""
    rows = (found := task("mqar", n_pairs=8)[0]).validation(128)
    keys, values = rows.inputs[:, 0:16:2], rows.inputs[:, 1:16:2]
    assert found.n_vocab == 8192
    assert keys.min() >= 1 and keys.max() < 4096 <= values.min() and values.max() < 8192
    assert all(len(set(row)) == 8 for row in keys.tolist())
    asked = rows.asked
    assert (asked.sum(axis=1) == 8).all()
    assert not asked[:, 1::2].any() and not asked[:, :16].any()
    assert (rows.inputs[:, 16:][~asked[:, 16:]] == 0).all()


def test_gaps_follow_the_power_law() -> None:
    """The first question to be placed is in slot i with weight i^(a - 1); with one pair that is the only one."""
    found = MQAR(16, n_pairs=1, power=0.01, val_rows=4000)
    rows = found.validation(34)
    slots = (np.argwhere(rows.asked)[:, 1] - 2) // 2
    weight = np.arange(1, 17) ** -0.99
    assert np.bincount(slots, minlength=16) / slots.size == pytest.approx(weight / weight.sum(), abs=0.025)


def test_noise_is_as_frequent_as_it_should_be() -> None:
    found, length = task("noisy_recall")
    noisy = found.validation(length).inputs[:, 4:-2:2] >= 16
    assert noisy.mean() == pytest.approx(0.2, abs=0.01)


# Streams


@pytest.mark.parametrize("name", ALL)
def test_row_is_a_function(name: str) -> None:
    """A row is a function of seed step and split."""
    (found, length), (again, _) = task(name), task(name)
    batch = found.train_batch(seed=1, step=5, batch_size=6, context=length)
    settings: list[dict[str, Any]] = [{"seed": 1, "step": 5}, {"seed": 2, "step": 5}, {"seed": 1, "step": 6}]
    batches = [again.train_batch(**s, batch_size=6, context=length) for s in settings]
    assert torch.equal(batch[0], batches[0][0]) and torch.equal(batch[1], batches[0][1])
    assert not torch.equal(batch[0], batches[1][0]) and not torch.equal(batch[0], batches[2][0])
    halves = [
        found.train_batch(seed=1, step=5, batch_size=6, context=length, rank=rank, world_size=2)[0] for rank in (0, 1)
    ]
    assert torch.equal(torch.stack(halves, dim=1).flatten(0, 1), batch[0])
    assert (batch[1] != IGNORED).any(dim=1).all(), "every row asks for something"


@pytest.mark.parametrize("name", ALL)
def test_validation_rows(name: str) -> None:
    """Validation rows do not depend on how they are batched."""
    found, length = task(name, val_rows=40)
    whole = found.validation(length)
    for inputs, targets, slices, _ in (found.val_batch(np.array([39, 3]), context=length),):
        assert (inputs.numpy() == whole.inputs[[39, 3]]).all()
        assert (targets.numpy() == whole.targets[[39, 3]]).all()
        assert (slices.numpy() == whole.slices[[39, 3]]).all()
    assert (found.val_batch(np.array([40, 41]), context=length)[1] == IGNORED).all()
    assert whole.slices.max() < len(found.slice_names)
    data = TextDataModule(found, seed=0, batch_size=4, context=length)
    assert sum(len(batch[0]) for batch in data.val_dataloader()) == 40


def test_settings_tell_tasks_apart() -> None:
    hashes = {task(name)[0].sha256 for name in ALL} | {MQAR(n_pairs=n).sha256 for n in (4, 5)}
    assert len(hashes) == len(ALL) + 1


# Names


@pytest.mark.parametrize("name", ALL)
def test_tokens_have_short_names_of_their_own(name: str) -> None:
    found, _ = task(name)
    tokenizer = found.tokenizer()
    assert len(set(found.names)) == found.n_vocab == tokenizer.n_vocab
    ids = list(range(min(found.n_vocab, 50)))
    assert tokenizer.encode(tokenizer.decode(ids)) == ids
    assert tokenizer.labels(ids) == list(found.names[: len(ids)])
    assert max(map(len, found.names)) <= 5
    assert from_json(tokenizer.to_json(), "x").sha256 == tokenizer.sha256


def test_a_word_that_is_no_token_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^'k9999' is no token of MQAR, whose tokens are called \., k2047,"):
        task("mqar")[0].tokenizer().encode("k1 k9999")


# Refusals


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: MQAR(n_pairs=4096), r"data\.n_pairs \(4096\) must be at most 4095"),
        (lambda: MQAR(n_pairs=0), r"data\.n_pairs \(0\) must be an integer of at least 1"),
        (lambda: MQAR(power=0.0), r"data\.power \(0\.0\) must be greater than 0"),
        (lambda: MQAR(n_pairs=17).check_context(64), r"model\.context \(64\) is too short for MQAR \(.*n_pairs=17"),
        (lambda: SelectiveCopy(n_tokens=16).check_context(31), r"model\.context \(31\) is too short"),
        (lambda: Needle(n_words=4, n_needles=5), r"data\.n_needles \(5\) must be at most data\.n_words \(4\)"),
        (lambda: Needle(n_needles=5).check_context(16), r"takes at least 17 tokens"),
        (lambda: Recall(noise=1.0), r"data\.noise \(1\.0\) must be at least 0, below 1"),
        (lambda: Recall(noise=0.1), r"data\.n_noise \(0\) must be at least 1"),
        (lambda: S5(7), r"data\.n_elements \(7\) must be at most 6"),
        (lambda: Counting(27), r"data\.n_variables \(27\) must be at most 26"),
        (lambda: FuzzyRecall(n_keys=2), r"data\.n_keys \(2\) must be an integer of at least 3"),
        (lambda: Induction(n_questions=3).check_context(7), r"takes at least 8 tokens"),
        (lambda: Parity().check_context(3), r"takes at least 4 tokens"),
        (lambda: ICLBigram(1), r"data\.n_states \(1\)"),
        (lambda: S5(pool=0), r"data\.pool \(0\) must be an integer of at least 1"),
        (lambda: Parity(min_length=3), r"data\.min_length \(3\) must be null with data\.answer=end"),
        (
            lambda: MQAR(min_length=15).check_context(64),
            r"data\.min_length \(15\) must be at least 16, the shortest row",
        ),
        (lambda: MQAR(min_length=65).check_context(64), r"data\.min_length \(65\) .* at most model\.context \(64\)"),
    ],
)
def test_refused_in_one_line(make: Callable[[], object], complaint: str) -> None:
    """What is impossible is refused in one line."""
    with pytest.raises(UsageError, match=complaint) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ALL)
def test_shortest_row(name: str) -> None:
    """The shortest row that is allowed can be drawn."""
    found, _ = task(name)
    found.check_context(found.shortest())
    assert found.validation(found.shortest()).asked.any(axis=1).all()
