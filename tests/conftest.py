"""Every function of attnlab is checked against its annotations, shapes included, while tests run."""

import gc
import importlib.util
import os
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

# An int may stand where a float is written, as everywhere in Python's typing. Installed before attnlab is imported.
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
install_import_hook("attnlab", CHECKER)

# In this process and in those that tests start.
QUICK = Path(__file__).parent / "without_transformers"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(QUICK), os.environ.get("PYTHONPATH")]))
spec = importlib.util.spec_from_file_location("without_transformers", QUICK / "sitecustomize.py")
assert spec is not None and spec.loader is not None
spec.loader.exec_module(importlib.util.module_from_spec(spec))

torch.set_num_threads(1)  # many small tensors: more threads only wait for each other


def pytest_runtest_setup() -> None:
    torch.set_num_threads(1)  # again: a run in this process may have taken all


def pytest_collection_finish() -> None:
    """What was imported stays: a run looks for what may go twice, which took a third of its time."""
    gc.collect()
    gc.freeze()
    gc.freeze = gc.unfreeze = lambda: None  # a run thaws what it froze, and would thaw this


def pytest_configure(config: pytest.Config) -> None:
    # omegaconf.DictConfig derives from typing.MutableMapping, which is not for us to change.
    config.addinivalue_line("filterwarnings", "ignore::beartype.roar.BeartypeDecorHintPep585DeprecationWarning")
