"""Data sets of Hugging Face's `datasets`: saved on disk, or named on the Hub. Their rows lie in .arrow files."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnlab.data.corpus import HeldBack, Share, Source
from attnlab.data.download import is_offline
from attnlab.data.file_streams import Stamp
from attnlab.data.listing import TextFile
from attnlab.data.text import Order
from attnlab.data.text_files import File, OnError, Seed
from attnlab.errors import UsageError
from attnlab.options import Text, checked
from attnlab.store.files import expand_path, parse_json, read_file


class HubText(File):
    """A data set by the folder that its `save_to_disk` wrote, or by its name on the Hub, with its revision.

    A document is a row, whose text stands at `field`. `split` names the rows for training, `val` those for validation;
    without it they are split off as `data=file` does.
    """

    @checked
    def __init__(
        self,
        path: Text | None = None,
        subset: Text | None = None,
        revision: Text | None = None,
        split: Text = "train",
        val: Text | None = None,
        val_fraction: Share = 0.1,
        split_seed: Seed = 0,
        field: Text = "text",
        on_error: OnError = "refuse",
        order: Order | None = "epoch",
        documents: bool = False,
        test_fraction: HeldBack = 0.0,
    ) -> None:
        if not path:
            raise UsageError("data=hf needs a data set: set data.path to a saved folder, or to its name on the Hub")
        Source.__init__(self, val_fraction, order, documents, test_fraction=test_fraction)
        self._choose(path, None, split_seed, field, on_error)
        self.source, self.subset, self.revision = str(expand_path(path, key="data.path")), subset, revision
        self.split, self.val_split = split, val
        if not os.path.isdir(self.source) and revision is None:
            raise UsageError(
                f"data.path ({path}) is no folder here; to take it from the Hub, set data.revision to one of its "
                "commits, so that the run can be repeated"
            )

    def files(self) -> tuple[list[TextFile], list[TextFile] | None]:
        read = self._saved if os.path.isdir(self.source) else self._of_hub
        return read(self.split), read(self.val_split) if self.val_split else None

    def _saved(self, split: str) -> list[TextFile]:
        folder = Path(self.source)
        try:
            if has_splits := (folder / "dataset_dict.json").is_file():
                splits = parse_json(read_file(folder / "dataset_dict.json"))["splits"]
                if split not in splits:
                    raise UsageError(f"data.path ({folder}) has no split {split!r}: it has {', '.join(splits)}")
                folder /= split
            state = parse_json(read_file(folder / "state.json"))
            # Without splits, all of its rows would be both.
            if not has_splits and (self.val_split or split not in ("train", state.get("_split"))):
                key, name = ("val", self.val_split) if self.val_split else ("split", split)
                raise UsageError(f"data.path ({folder}) has no splits, and data.{key} ({name}) names one: leave it out")
            return _files([str(folder / file["filename"]) for file in state["_data_files"]])
        except UsageError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise UsageError(f"data.path ({folder}) is not a data set that save_to_disk wrote ({reason})") from error

    def _of_hub(self, split: str) -> list[TextFile]:
        try:
            import datasets
        except ImportError as error:
            raise UsageError("data=hf takes a data set of the Hub by datasets: pip install 'attnlab[hf]'") from error
        source = f"data.path ({self.source})"
        mode = datasets.DownloadConfig(local_files_only=is_offline())
        try:
            rows: Any = datasets.load_dataset(
                self.source, self.subset, revision=self.revision, split=split, download_config=mode
            )
        except Exception as error:  # whatever the library makes of a name, a network or a disk
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UsageError(
                f"{source} cannot be taken from the Hub ({reason}); offline, set data.path to a folder that "
                "save_to_disk wrote"
            ) from error
        if rows._indices is not None:
            raise UsageError(
                f"data.split ({split}) chooses single rows: save it with save_to_disk, and name that folder"
            )
        return _files([file["filename"] for file in rows.cache_files])


def _files(paths: Sequence[str]) -> list[TextFile]:
    return [TextFile(path, ".arrow", Stamp.of(os.stat(path))) for path in paths]
