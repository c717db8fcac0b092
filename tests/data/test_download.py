"""Files that are fetched once and kept, from a server of our own on this machine."""

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from attnlab.data import download
from attnlab.data.corpus import Download
from attnlab.data.download import fetch, read_cached, sha256_of
from attnlab.errors import AttnlabError, UsageError

TEXT = b"Your journey starts with one step. " * 50
SHA256 = hashlib.sha256(TEXT).hexdigest()
OTHERWISE = "set data.path=FILE to a copy of it"


class Answers(BaseHTTPRequestHandler):
    """/right answers with the text, the other paths each go wrong in a way of their own."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/missing":
            self.send_error(404)
            return
        if self.path == "/nonsense":
            self.wfile.write(b"this is no HTTP\r\n\r\n")
            return
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/right")
            self.end_headers()
            return
        body = {"/wrong": b"<html>please log in</html>", "/truncated": TEXT[:99]}.get(self.path, TEXT)
        self.send_response(200)
        self.send_header("Content-Length", str(len(TEXT if self.path == "/truncated" else body)))
        self.end_headers()
        if self.path == "/slow":
            time.sleep(0.5)
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """A test's output is not the place for a server's log."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "*")  # a proxy of the machine must not see this
    monkeypatch.setattr(Answers, "asked", [], raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def get(url: str, path: Path) -> bytes:
    return fetch(url, path, SHA256, who="data=steps", otherwise=OTHERWISE)


def refusal(url: str, path: Path) -> str:
    with pytest.raises(AttnlabError) as error:
        get(url, path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_file_is_fetched_once_and_kept(server: str, tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "steps.txt"
    assert get(f"{server}/right", path) == TEXT and path.read_bytes() == TEXT
    assert get(f"{server}/right", path) == TEXT
    assert Answers.asked == ["/right"]
    assert [p.name for p in path.parent.iterdir()] == ["steps.txt"]  # and no temporary file beside it


def test_an_address_that_moved_is_followed(server: str, tmp_path: Path) -> None:
    assert get(f"{server}/moved", tmp_path / "steps.txt") == TEXT


def test_a_damaged_file_is_fetched_again(server: str, tmp_path: Path) -> None:
    path = tmp_path / "steps.txt"
    path.write_bytes(TEXT[:-1])
    assert get(f"{server}/right", path) == TEXT and path.read_bytes() == TEXT


def test_other_bytes_are_refused(server: str, tmp_path: Path) -> None:
    """Other bytes than the pinned ones are refused and not kept."""
    path, wrong = tmp_path / "steps.txt", b"<html>please log in</html>"
    assert refusal(f"{server}/wrong", path) == (
        f"data=steps: {server}/wrong answered with {len(wrong)} other bytes (sha256 {sha256_of(wrong)}); "
        f"put the file at {path} (sha256 {SHA256}) or {OTHERWISE}"
    )
    assert not path.exists()


def test_broken_off_file(server: str, tmp_path: Path) -> None:
    """A file that breaks off is refused and not kept."""
    # Some versions of Python notice that bytes are missing, the others leave it to the hash.
    message = refusal(f"{server}/truncated", tmp_path / "steps.txt")
    assert "could not fetch" in message or "answered with 99 other bytes" in message
    assert not (tmp_path / "steps.txt").exists()


def test_a_missing_page_says_so(server: str, tmp_path: Path) -> None:
    path = tmp_path / "steps.txt"
    assert refusal(f"{server}/missing", path) == (
        f"data=steps: could not fetch {server}/missing (Not Found); "
        f"put the file at {path} (sha256 {SHA256}) or {OTHERWISE}"
    )


def test_an_answer_that_is_no_http_is_refused(server: str, tmp_path: Path) -> None:
    assert "could not fetch" in refusal(f"{server}/nonsense", tmp_path / "steps.txt")


def test_timeout(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not answer in time is given up."""
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.05)
    assert "(timed out)" in refusal(f"{server}/slow", tmp_path / "steps.txt")


def test_a_file_without_end_is_given_up(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "DEADLINE_SECONDS", 0.0)
    assert "(no end after 0 seconds)" in refusal(f"{server}/right", tmp_path / "steps.txt")


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network the message says where to put the file."""
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as taken:  # bound but not listening: nobody answers
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/steps.txt"
        message = refusal(url, tmp_path / "steps.txt")
        assert message.startswith(f"data=steps: could not fetch {url} ([Errno ")
        assert message.endswith(f"put the file at {tmp_path / 'steps.txt'} (sha256 {SHA256}) or {OTHERWISE}")

        source = Download("steps", url, SHA256, str(tmp_path / "corpora"))
        with pytest.raises(UsageError) as error:
            source.load()
        assert f"put the file at {tmp_path / 'corpora' / 'steps.txt'} (sha256 {SHA256})" in str(error.value)
        assert "or set data.path=FILE to a copy of it" in str(error.value)


def test_a_wrong_file_in_the_place_is_mentioned(server: str, tmp_path: Path) -> None:
    path = tmp_path / "steps.txt"
    path.write_bytes(b"something else")
    assert refusal(f"{server}/missing", path).endswith("; the file that is there now has another sha256")
    assert path.read_bytes() == b"something else"


def test_a_place_that_cannot_be_is_refused(server: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"not a folder")
    for path in (tmp_path / "file" / "steps.txt", tmp_path / ("a" * 300)):
        message = refusal(f"{server}/right", path)
        assert message.startswith(f"cannot write {path} (") and "; paths.cache says where it goes; " in message


def test_a_download_is_fetched_checked_and_kept(server: str, tmp_path: Path) -> None:
    source = Download("steps", f"{server}/right", SHA256, str(tmp_path / "corpora"))
    first, second = source.load(), source.load()
    assert first == second and first.sha256 == SHA256 and first.name == "steps"
    assert Answers.asked == ["/right"]
    assert (tmp_path / "corpora" / "steps.txt").read_bytes() == TEXT


def test_a_file_counts_as_kept_only_with_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "steps.txt"
    assert read_cached(path, SHA256) is None and read_cached(tmp_path, SHA256) is None
    path.write_bytes(TEXT)
    assert read_cached(path, SHA256) == TEXT and read_cached(path, "0" * 64) is None
