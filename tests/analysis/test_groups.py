"""Which runs are of one configuration, and in which settings configurations differ."""

from typing import Any

from tests.analysis.in_memory import make_run

from attnlab.analysis.groups import RATE, apart_by, changing, differing, groups_by_rate, groups_of
from attnlab.analysis.reading import Run
from attnlab.store.status import Status


def of(group: str, seed: int, config: dict[str, Any], **fields: Any) -> Run:
    return make_run(seed, 1.0, group=group, config={"seed": seed, **config}, **fields)


def test_changing() -> None:
    """Keys that always change together stand together, those of the variant last; 1 and 1.0 are one value."""
    settings = [
        {"attention.kind": "a", "batch_size": 2, "depth": 1, "same": 1},
        {"attention.kind": "b", "batch_size": 4, "depth": 1.0, "same": 1},
        {"attention.kind": "b", "batch_size": 4, "depth": 3, "same": 1.0},
    ]
    assert changing(settings) == [["batch_size", "attention.kind"], ["depth"]]
    assert differing(settings) == ["batch_size", "depth"]
    assert changing([{"a": 1}, {}]) == [["a"]]  # a setting that is not there differs from one that is
    assert changing([{"a": 1}]) == changing([]) == []


def test_groups() -> None:
    """A configuration is a folder and a code; a run that did not end counts to it, and no results without an end."""
    code = {"attnlab.model": "1" * 16}
    runs = [
        of("a", 0, {"batch_size": 2}, code=code),
        of("a", 1, {"batch_size": 2}, code={"attnlab.model": "2" * 16}),
        of("a", 2, {"batch_size": 2}, code=code, status=Status.FAILED),
        of("b", 0, {"batch_size": 4}, code=code),
        make_run(0, 1.0, group="unreadable"),
    ]
    groups = groups_of(runs)
    assert [(g.folder, [run.seed for run in g.runs]) for g in groups] == [("a", [0, 2]), ("a", [1]), ("b", [0])]
    assert [*groups[0].results] == [0]
    assert [g.settings["code.attnlab.model"] for g in groups] == ["1" * 8, "2" * 8, "1" * 8]
    assert "seed" not in groups[0].settings and groups[0].settings["batch_size"] == 2


def test_later_settings() -> None:
    """A setting that came later has its default where a config says nothing of it, if any run has set it."""
    model = {"norm": "rms"}
    a, b = groups_of([of("a", 0, {"model": model}), of("b", 0, {"model": model | {"norm_place": "post", "tie": True}})])
    assert (a.settings["model.norm_place"], b.settings["model.norm_place"]) == ("pre", "post")
    assert "model.norm_eps" not in a.settings and "model.tie" not in a.settings


def test_started_from() -> None:
    """Weights that a run started with are told apart by their hash, and by their folder while a run has none yet."""
    runs = [
        of("a", 0, {"init_from": "x"}, summary={"init_sha256": "1"}),
        of("b", 0, {"init_from": "x"}, status=Status.UNFINISHED),
        of("c", 0, {"resume_from": "y"}),
        of("d", 0, {"init_from": None}),
    ]
    names = [{k: v for k, v in g.settings.items() if k.endswith("_from")} for g in groups_of(runs)]
    assert names == [{"init_from": "1"}, {"init_from": "x"}, {"resume_from": "y"}, {}]


def test_from_summary() -> None:
    """What the files decide is read from a run that ended; where all others agree, it holds for one that did not."""
    runs = [
        of("a", 0, {"x": 1}, summary={"data_sha256": "d", "threads": 1}),
        of("b", 0, {"x": 2}, summary={"data_sha256": "d", "threads": 2}),
        of("c", 0, {"x": 3}, status=Status.UNFINISHED),
    ]
    a, b, c = groups_of(runs)
    assert (a.settings["data.sha256"], c.settings["data.sha256"]) == ("d", "d")
    assert "trainer.threads" not in c.settings and b.settings["trainer.threads"] == 2


def test_validation_text() -> None:
    """Runs that name no validation text have that of the same data and cut, if one names it, and else one of theirs."""
    data = {"data_sha256": "d" * 64}
    runs = [
        of("a", 0, {"data": {"val_fraction": 0.1}}, summary={**data, "val_sha256": "v"}),
        of("b", 0, {"data": {"val_fraction": 0.1}, "x": 1}, summary=data),
        of("c", 0, {"data": {"val_fraction": 0.2}}, summary={"data_sha256": "e" * 64, "val_sha256": "w"}),
        of("d", 0, {"data": {"val_fraction": 0.3}}, summary=data),
    ]
    texts = [group.settings["data.val_sha256"] for group in groups_of(runs)]
    assert texts[:3] == ["v", "v", "w"] and texts[3] not in texts[:3]


def test_by_rate() -> None:
    """Configurations that differ in nothing but their rate belong to one arm."""
    configs = [("a", 1e-3, 2), ("b", 2e-3, 2), ("c", 1e-3, 4)]
    groups = groups_of([of(name, 0, {"optimizer": {"lr": lr}, "batch_size": size}) for name, lr, size in configs])
    pair, single = apart_by(groups, {RATE})
    assert {rate: group.folder for rate, group in groups_by_rate(pair).items()} == {1e-3: "a", 2e-3: "b"}
    assert [group.folder for group in single] == ["c"]
