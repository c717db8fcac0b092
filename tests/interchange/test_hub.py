"""Uploads: asked for by name, refused before anything is written, and said in one line where they fail."""

from pathlib import Path
from typing import Any

import pytest

from attnlab.errors import FileFailure, UsageError
from attnlab.interchange.hub import check_push, push

huggingface_hub = pytest.importorskip("huggingface_hub")


class Api:
    """Stands for the Hub: keeps what it is asked."""

    calls: list[Any] = []

    def create_repo(self, name: str, **settings: Any) -> str:
        self.calls.append((name, settings))
        return f"https://hub/{name}"

    def upload_folder(self, **settings: Any) -> None:
        self.calls.append(settings)
        if settings["repo_id"].startswith("nobody"):
            raise ConnectionError("no route\nto the Hub")


@pytest.mark.parametrize("name", ["", "name", "a/b/c", "a/../b", " a/b", "a/b c"])
def test_names(name: str) -> None:
    with pytest.raises(UsageError, match=r"push \(.*\) must be owner/name"):
        check_push(name)


def test_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is tried where the Hub is switched off."""
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: True)
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE"):
        check_push("owner/name")
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
    check_push("owner/name")


def test_upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into a model that is private where it is new; what goes wrong is one line that says what is written."""
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert push(tmp_path, "owner/name") == "https://hub/owner/name"
    made, uploaded = Api.calls
    assert made == ("owner/name", {"private": True, "exist_ok": True})
    assert uploaded == {"repo_id": "owner/name", "folder_path": tmp_path}
    with pytest.raises(FileFailure, match=r"is written, but not uploaded to nobody/x \(ConnectionError: no route to"):
        push(tmp_path, "nobody/x")
