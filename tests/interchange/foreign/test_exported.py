"""What attnlab export wrote, looked at as any other model: its own code runs only when it is allowed to."""

from pathlib import Path

import numpy as np
import pytest
from tests.training.launch import folder_of, run_here

from attnlab.cli import main
from attnlab.errors import UsageError
from attnlab.interchange.foreign.loading import load_foreign
from attnlab.runs import maps_of

pytest.importorskip("transformers", reason="transformers is not installed: pip install -e '.[hf]'")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("variant", ["gated_delta", "differential"])
def test_exported(variant: str, tmp_path: Path) -> None:
    """Its maps are those of the run."""
    small = ("trainer.max_steps=2", "maps.steps=2", "sample.steps=1", "model.d_model=16", "model.n_heads=4")
    run_here(tmp_path, *small, variant=variant)
    run = folder_of(tmp_path, variant)
    main(["export", f"run={run}", f"folder={tmp_path / 'out'}"])
    with pytest.raises(UsageError, match="allow_code=true runs it, if you trust it"):
        load_foreign(tmp_path / "out")
    (maps,) = load_foreign(tmp_path / "out", allow_code=True).inspect("The goat sat.").parts.values()
    own = maps_of(run, "The goat sat.")
    assert maps.tokens == own.tokens
    for layer, expected in zip(maps.layers, own.layers, strict=True):
        np.testing.assert_allclose(layer.weights, expected.weights, atol=1e-6)
        assert layer.kind == expected.kind
