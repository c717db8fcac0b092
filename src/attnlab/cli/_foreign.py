"""What the commands take that look into models of Hugging Face's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from attnlab.errors import UsageError

AllowCode = Annotated[bool, "true: run the code that lies in the folder of hf=, if you trust it"]
Download = Annotated[bool, "true: hf= is a model of Hugging Face's Hub, which is fetched"]
Revision = Annotated[str | None, "the commit of it that is fetched"]
Target = Annotated[str | None, "what is written after the prompt, for an encoder with a decoder"]


def check_either(command: str, run: Path | None, hf: Path | None) -> None:
    """Refuse to be given none of a run and a folder of Hugging Face's, or both."""
    if run is None and hf is None:
        raise UsageError(f"attnlab {command} needs run=... or hf=...")
    if run is not None and hf is not None:
        raise UsageError(f"attnlab {command} takes run= ({run}) or hf= ({hf}), not both")


def check_unused(typed: Mapping[str, object], of: str) -> None:
    """Refuse keys that were typed and mean nothing here: those whose value is not None or False."""
    for key, value in typed.items():
        if value:
            raise UsageError(f"{key} ({value}) goes with {of} alone")


def hf_folder(hf: Path, *, download: bool, revision: str | None) -> Path:
    """The folder that was named, or that of what was fetched."""
    if not download:
        check_unused({"revision": revision}, of="download=true")
        return hf
    from attnlab.interchange.foreign.loading import fetched

    return fetched(str(hf), revision)
