"""How Lightning reads and writes checkpoints here; what reads them without training needs no Lightning."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from attnlab.store.checkpoints import CheckpointFolder
from attnlab.training.checkpoint import load_checkpoint


class VerifiedCheckpointIO(CheckpointIO):
    """Lightning's way of reading and writing files, by way of a CheckpointFolder."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        file, beside = io.BytesIO(), checkpoint.pop("beside", {})
        torch.save(checkpoint, file)
        path = Path(path)
        CheckpointFolder(path.parent).write(path.name, checkpoint["global_step"], file.getvalue(), beside)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return load_checkpoint(path, map_location or "cpu")

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)
