"""Designs: which combinations are tried, and which effects a fraction cannot tell apart."""

import itertools
from typing import Any

import numpy as np
import pytest

from attnlab.errors import UsageError
from attnlab.sweep.design import LETTERS, aliases, fraction, read_design

AXES: dict[str, Any] = {"mask": ["causal", "window"], "size": {"small": {"d": 8}, "mid": {"d": 16}, "large": {"d": 32}}}
TWO: dict[str, Any] = {name: [0, 1] for name in "abcd"}


def levels(kind: str, axes: dict[str, Any], **more: Any) -> list[tuple[str, ...]]:
    points = read_design("s", {"design": kind, "axes": axes, **more}).points()
    return [tuple(point.levels.values()) for point in points]


def test_grid() -> None:
    """Every combination once, the baseline, all first levels, before the others."""
    design = read_design("s", {"axes": AXES, "settings": {"seed": 3}, "seeds": 2})
    points = design.points()
    assert {tuple(p.levels.values()) for p in points} == {*itertools.product(AXES["mask"], AXES["size"])}
    assert len(points) == 6 and [p.is_baseline for p in points] == [True] + [False] * 5
    assert points[0].overrides == ("mask=causal", "d=8") and (design.settings, design.seeds) == (("seed=3",), (0, 1))


def test_one_at_a_time() -> None:
    """Add one: each other level by itself. Drop one: all last levels, and each taken back by itself."""
    small, large = ("causal", "small"), ("window", "large")
    assert levels("add_one", AXES) == [small, ("window", "small"), ("causal", "mid"), ("causal", "large")]
    assert levels("drop_one", AXES) == [large, ("causal", "large"), ("window", "small")]


@pytest.mark.parametrize("generators", [[], ["D=ABC"], ["D=-ABC"], ["C=AB"], ["C=AB", "D=A"], ["D=-AB"]])
def test_fraction(generators: list[str]) -> None:
    """Columns are balanced, and two effects are the same column, up to a sign, just where they are called aliases."""
    columns = np.array([*fraction(4, generators)])
    assert len(columns) == 2 ** (4 - len(generators)) == len({*map(tuple, columns)})
    assert not columns.sum(axis=0).any()
    effects = {
        "".join(LETTERS[i] for i in some): columns[:, list(some)].prod(axis=1)
        for n in (1, 2)
        for some in itertools.combinations(range(4), n)
    }
    same = {
        one: sorted(other for other, b in effects.items() if other != one and abs(a @ b) == len(columns))
        for one, a in effects.items()
    }
    assert aliases(4, generators) == {one: others for one, others in same.items() if others}


def test_factorial() -> None:
    """The first level is -1: a minus brings the baseline back into a fraction that an even product leaves without."""
    assert len(levels("factorial", TWO)) == 16
    base = ("0",) * 4
    assert base not in levels("factorial", TWO, generators=["D=AB"])
    assert levels("factorial", TWO, generators=["D=-AB"])[0] == base


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "must hold settings by name"),
        ({"axis": {}}, "axis is not a key; did you mean 'axes'"),
        ({"design": "full", "axes": AXES}, r"design \(full\) must be grid"),
        ({"axes": {}}, "axes must name what is varied"),
        ({"axes": {"mask": ["causal"]}}, "axes.mask needs two levels or more"),
        ({"axes": {"d": [8, 8]}}, "axes.d names a level twice: 8, 8"),
        ({"axes": {"d": 8}}, "axes.d must be a list of values, or levels by name"),
        ({"axes": AXES, "design": "factorial"}, "axes.size has 3 levels"),
        ({"axes": TWO, "design": "factorial", "generators": ["D=AX"]}, r"generators \(D=AX\) must give one axis"),
        ({"axes": TWO, "design": "factorial", "generators": ["D=AB", "C=AD"]}, "must give one axis"),
        ({"axes": TWO, "design": "factorial", "generators": ["D=AA"]}, "must give one axis"),
        ({"axes": TWO, "generators": ["D=AB"]}, "must be a list, of a factorial design"),
        ({"axes": TWO, "seeds": [0, 0]}, "must be a number of seeds, or a list of different ones"),
        ({"axes": TWO, "seeds": True}, "must be a number of seeds"),
        ({"axes": TWO, "seeds": 0}, "must be a number of seeds"),
        ({"axes": TWO, "settings": ["a"]}, "settings .* must hold settings by name"),
        ({"axes": {f"a{i}": [0, 1] for i in range(17)}}, "axes make 131,072 combinations"),
        ({"axes": TWO, "seeds": 10**12}, "seeds .* must be at most 100,000"),
        ({"axes": TWO, "settings": {"allow_targets": ["os"]}}, "allow_targets .* must be typed, for no file"),
        ({"axes": {"++allow_targets": [["os"], ["sys"]]}}, "allow_targets .* must be typed"),
        ({"axes": {"a": {"x": {"hydra.run.dir": "/"}, "y": {}}}}, r"hydra\.run\.dir .* must be typed"),
        ({"axes": AXES, "arms": {"window": {"hydra/launcher": "joblib"}}}, "hydra/launcher .* must be typed"),
    ],
)
def test_refused(content: Any, message: str) -> None:
    """One line, with the file and the key that is wrong."""
    with pytest.raises(UsageError, match=message) as caught:
        read_design("mine", content)
    assert str(caught.value).startswith("sweep=mine") and "\n" not in str(caught.value)


def test_words() -> None:
    """Values are typed as Hydra reads them: what is no plain word stands in quotes."""
    axes = {"x": [["a", 1], {"k": 'say "hi"'}, None, True, 1e-3, "two words"]}
    (words,) = zip(*(point.overrides for point in read_design("s", {"axes": axes}).points()), strict=True)
    assert words == ("x=[a,1]", 'x={k:"say \\"hi\\""}', "x=null", "x=true", "x=0.001", 'x="two words"')


def test_arms() -> None:
    """A level may have settings of its own, wherever it stands; what is no level, or varied anyway, is refused."""
    content = {"axes": AXES, "arms": {"window": {"lr": 0.1, "layers": 3}}}
    made = {tuple(point.levels.values()): point.overrides for point in read_design("s", content).points()}
    assert made["window", "mid"] == ("mask=window", "d=16", "lr=0.1", "layers=3")
    assert made["causal", "mid"] == ("mask=causal", "d=16")
    for arms, message in (
        ({"widow": {"lr": 1}}, "widow is no level; did you mean 'window'"),
        ({"window": {"d": 8}}, r"arms\.window sets d, which an axis varies"),
        ([], "must hold settings by level"),
    ):
        with pytest.raises(UsageError, match=message):
            read_design("s", {"axes": AXES, "arms": arms})
