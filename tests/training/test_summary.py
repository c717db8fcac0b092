"""What is stored of a run."""

from types import SimpleNamespace
from typing import Any

import pytest

from attnlab.data.tasks.compression import Compression
from attnlab.training.prepare import Prepared
from attnlab.training.summary import config_to_store, of_a_task


def prepared(**fields: Any) -> Prepared:
    """As much of a run as is asked for here."""
    nothing: dict[str, Any] = dict.fromkeys(Prepared._fields)
    return Prepared(**nothing | fields)


def config(**plain: Any) -> SimpleNamespace:
    sizes = {"model": SimpleNamespace(context=8), "streams": SimpleNamespace(eval=0, data=0)}
    return SimpleNamespace(**sizes, as_dict=lambda: plain)


def test_secrets() -> None:
    """What came from the environment is stored as it was written; the variant stands first."""
    plain = {
        "seed": 3,
        "logger": {"x": {"keys": ["open", "s3cret"]}},
        "environment": {"logger.x.keys[1]": "${oc.env:K}"},
    }
    stored = config_to_store(prepared(config=config(**plain), identity=SimpleNamespace(variant="gqa")))
    assert stored == {"variant": "gqa", "seed": 3, "logger": {"x": {"keys": ["open", "${oc.env:K}"]}}}
    assert next(iter(stored)) == "variant" and plain["logger"]["x"]["keys"][1] == "s3cret"


def test_task() -> None:
    """Of a task its floor and ceiling. Who says the most frequent of four tokens of four kinds is right in E[max] / 4,
    where E[max] = (24 + 2 * 180 + 3 * 48 + 4 * 4) / 256.
    """
    about = of_a_task(prepared(config=config(), splits=Compression(5, val_rows=512)))
    floor, ceiling = about["bounds"]["floor"], about["bounds"]["ceiling"]
    assert floor["accuracy"] == pytest.approx(2.125 / 4, abs=0.04) and ceiling["accuracy"] == 1.0
    assert about["val_rows"] == 512 and 0 <= about["val_overlap"] <= 1


def test_text() -> None:
    """A text has neither."""
    assert of_a_task(prepared(config=config(), splits=object())) == {"bounds": {}}
