"""An exported folder on the Hub, for those who ask for it by name."""

import re
from pathlib import Path

from attnlab.errors import FileFailure, UsageError


def check_push(name: str) -> None:
    """Refuse a name that is none, and an upload that cannot be, before anything is written."""
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        raise UsageError(f"push ({name}) must be owner/name, as the Hub calls a model")
    try:
        from huggingface_hub import is_offline_mode
    except ImportError as error:
        raise UsageError(f"push ({name}) needs huggingface_hub: pip install 'attnlab[hf]'") from error
    if is_offline_mode():
        raise UsageError(f"push ({name}) is not uploaded offline: take HF_HUB_OFFLINE away, or leave push out")


def push(folder: Path, name: str) -> str:
    """Upload a folder to a model of the Hub, which is made, and private, where there is none; returns its address.

    Raises FileFailure for whatever the Hub or the network says.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        address = api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder)
    except Exception as error:  # of the Hub, of httpx, of the disk
        reason = " ".join(str(error).split())[:200]
        raise FileFailure(
            f"{folder} is written, but not uploaded to {name} ({type(error).__name__}: {reason})"
        ) from error
    return str(address)
