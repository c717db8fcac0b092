"""Mean maps: the average over heads and seeds of what each run looked at last."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from tests.analysis.in_memory import make_run

from attnlab.analysis.arms import Arm, arm_of_runs
from attnlab.analysis.report.mean_maps import mean_maps, picture
from attnlab.inspection.records import LayerMap, Sentence, save_maps
from attnlab.store.names import LAST_MAPS

RNG = np.random.default_rng(2)
TOKENS = ["a", " b", "c"]


def arm_of_maps(folder: Path, maps: list[np.ndarray | None], tokens: list[str] = TOKENS) -> Arm:
    """A run for each map, at its only layer with a map; None is a run whose file is damaged."""
    runs = []
    for seed, weights in enumerate(maps):
        path = folder / f"seed_{seed}" / LAST_MAPS
        path.parent.mkdir(parents=True)
        layers = [LayerMap(0, "none", None, None), LayerMap(1, "signed", weights, None)]
        save_maps(path, [Sentence("probe", "a bc", tokens, layers)], step=1, run="r")
        if weights is None:
            path.write_bytes(b"nothing")
        runs.append(replace(make_run(seed, 1.0), path=path.parents[len(Path(LAST_MAPS).parts) - 1]))
    return arm_of_runs("v", "v-0", {}, runs)


def test_mean(tmp_path: Path) -> None:
    """Signed maps count as shares of each row; a file that cannot be read is named and costs no other."""
    one, two = np.tril(RNG.normal(size=(2, 2, 3, 3))).astype(np.float32)
    result = mean_maps(arm_of_maps(tmp_path, [one, None, two]))
    assert result is not None and (result.seeds, result.tokens, result.layers[0]) == (2, TOKENS, None)
    assert len(result.problems) == 1 and result.problems[0].startswith("v/seed_1: ")
    rows = [[np.abs(row) / np.abs(row).sum() for row in head] for maps in (one, two) for head in maps]
    assert result.layers[1] is not None
    np.testing.assert_allclose(result.layers[1], np.mean(rows, axis=0), rtol=1e-6)


def test_other_tokens(tmp_path: Path) -> None:
    """Maps of another sentence are not averaged with those of the first."""
    map_, other = np.tril(RNG.normal(size=(2, 1, 3, 3))).astype(np.float32)
    first, second = arm_of_maps(tmp_path / "a", [map_]), arm_of_maps(tmp_path / "b", [other], ["x", "y", "z"])
    both = arm_of_runs("v", "v-0", {}, [first.runs[0], replace(second.runs[0], seed=1)])
    result = mean_maps(both)
    assert result is not None and result.seeds == 1


def test_no_map(tmp_path: Path) -> None:
    """Where no run has a map there is no picture, and what could not be read of others is told."""
    assert mean_maps(arm_of_runs("v", "v-0", {}, [])) is None
    arms = [arm_of_maps(tmp_path, [np.tril(RNG.normal(size=(1, 3, 3))).astype(np.float32), None])]
    drawn, problems = picture(arms)
    assert drawn is not None and drawn.svg.count("<image") == 1 and len(problems) == 1
    assert picture([arm_of_runs("v", "v-0", {}, [])]) == (None, [])
