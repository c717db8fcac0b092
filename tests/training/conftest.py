"""What every test of training has in common: warnings of Lightning that say nothing about our code."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent
IGNORED = (
    "ignore:.*LeafSpec.*is deprecated:FutureWarning",  # Lightning 2.6 asks torch 2.13 in a way that torch will drop
    "ignore::UserWarning:lightning",  # advice about workers and intervals, which a run silences, too
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            for line in IGNORED:
                item.add_marker(pytest.mark.filterwarnings(line))
