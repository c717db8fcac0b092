"""What `attnlab tune over=` may say, and which settings it makes of it."""

import builtins
import math
from typing import Any

import pytest

from attnlab.analysis.tuned_variants import spelled
from attnlab.errors import UsageError
from attnlab.sweep.search_space import Proposals, ValueRange, read_space

RANGES = "optimizer.lr=1e-4..1e-1,optimizer.weight_decay=0..0.3,model.n_layers=2..4 optimizer.decay=cosine,linear"


def test_read_space() -> None:
    """Lists, ranges by the logarithm, ranges from 0 and ranges of integers."""
    values = read_space(RANGES).values
    rate, decay, layers, course = values.values()
    assert isinstance(rate, ValueRange) and isinstance(decay, ValueRange) and isinstance(layers, ValueRange)
    assert [rate.at(share) for share in (0, 0.5, 1)] == [1e-4, pytest.approx(3.16e-3), 0.1]
    assert decay.at(0.5) == 0.15
    assert [layers.at(share / 6) for share in range(7)] == [2, 2, 3, 3, 4, 4, 4]
    assert course == ["cosine", "linear"]
    assert read_space("optimizer.lr=1e-3,2,null,true").values == {"optimizer.lr": [1e-3, 2, None, True]}
    assert read_space("a.b=1,2,c.d=3,4").size == 4 and read_space(RANGES).size is None


@pytest.mark.parametrize("value", ["[1e-3,1e-2]", "{a:1},2", "1,2020-01-01", "'1,2", "1,*a", "1,!!set"])
def test_no_values(value: str) -> None:
    """Brackets, dates and whatever else is no number and no word are refused in a line."""
    with pytest.raises(UsageError, match=r"^over: optimizer\.lr=.* must be "):
        read_space(f"optimizer.lr={value}")


def loss(settings: dict[str, Any]) -> float:
    return abs(math.log(settings["optimizer.lr"] / 2e-3)) + settings["optimizer.weight_decay"]


def asked(n: int, *, told: bool = True) -> list[list[str]]:
    proposals = Proposals(read_space(RANGES), n, lower_is_better=True)
    batches = []
    for size in proposals.batches():
        settings = proposals.ask(size)
        if told:
            proposals.tell({spelled(each): loss(each) for each in settings})
        batches.append([spelled(each) for each in settings])
    return batches


def test_optuna_proposals() -> None:
    """The first half is drawn without looking, the others near what was best; the same results give the same."""
    pytest.importorskip("optuna")
    batches = asked(32)
    assert list(map(len, batches)) == [16, 8, 8] and len({name for batch in batches for name in batch}) == 32
    assert batches == asked(32)
    blind = asked(32, told=False)
    assert blind[0] == batches[0] and blind[2] != batches[2]


def test_random_without_optuna(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Optuna settings are drawn at random, and that is said."""
    usual = builtins.__import__

    def missing(name: str, *rest: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "optuna":
            raise ImportError(name)
        return usual(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    proposals = Proposals(read_space(RANGES), 0, lower_is_better=True)
    assert "at random (pip install 'attnlab[sweep]'" in proposals.how and proposals.batches() == [16]
    settings = proposals.ask(16)
    assert len({spelled(each) for each in settings}) == 16
    assert {each["model.n_layers"] for each in settings} == {2, 3, 4}
    assert all(1e-4 <= each["optimizer.lr"] <= 0.1 for each in settings)


def test_grid_proposals() -> None:
    """Lists are tried whole, unless fewer settings are asked for."""
    space = read_space("optimizer.lr=1e-3,2e-3,optimizer.weight_decay=0,0.1")
    whole, some = (Proposals(space, n, lower_is_better=False) for n in (0, 3))
    assert whole.is_grid and len(whole.ask(4)) == 4
    assert not some.is_grid and len(some.ask(3)) == 3
