"""For the tests of the tab: folders of runs, a real TensorBoard server on loopback, and a page of Chromium."""

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.limits import HANG
from torch.utils.tensorboard import SummaryWriter

from attnlab.inspection.records import Record, half, record_summary

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TOKENS = ["Your", " journey", " starts", " with", " one", " step", "."]


def weights_of(tokens: int, heads: int, seed: int, kind: str = "probability") -> np.ndarray:
    """Maps that look like those of a kind."""
    rng = np.random.default_rng(seed)
    scores = 2 * rng.normal(size=(heads, tokens, tokens))
    if kind == "signed":
        return np.tril(scores / 4)
    scores = np.where(np.tril(np.ones((tokens, tokens), dtype=bool)), scores, -np.inf)
    exp = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def record(
    step: int,
    layer: int,
    *,
    tokens: Sequence[str] = TOKENS,
    heads: int = 2,
    kind: str = "probability",
    sentence: str = "probe",
    seed: int = 0,
) -> Record:
    seed = seed * 7919 + 101 * step + layer
    norms = np.random.default_rng(seed).uniform(0.2, 2, size=(heads, len(tokens)))
    weights = half(weights_of(len(tokens), heads, seed, kind))
    return Record(step, layer, kind, sentence, "".join(tokens), list(tokens), weights, half(norms))


def write_run(folder: Path, records: Sequence[Record], scalars: Sequence[tuple[str, float, int]] = ()) -> None:
    with SummaryWriter(str(folder)) as writer:
        for one in records:
            writer.file_writer.add_summary(record_summary(one), one.step)
        for tag, value, step in scalars:
            writer.add_scalar(tag, value, step)


def copies(folder: Path, records: Sequence[Record], n_runs: int) -> None:
    """A folder of so many runs with the same maps."""
    write_run(folder / "run_000", records)
    (events,) = (folder / "run_000").iterdir()
    for i in range(1, n_runs):
        run = folder / f"run_{i:03d}"
        run.mkdir()
        (run / events.name).write_bytes(events.read_bytes())


@contextmanager
def tensorboard(folder: Path, *flags: str, runs: int = 1) -> Iterator[str]:
    """A TensorBoard server that has found so many runs in a folder, and its address; ended by its process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--host", "127.0.0.1"]
    with (folder.parent / f"tensorboard_{port}.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "--port", str(port), "--reload_interval", "1", *flags], stdout=log, stderr=log
        )
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(f"{address}/data/plugin/attention/runs", server, runs)
            yield address
        finally:
            server.terminate()
            try:
                server.wait(HANG)
            finally:
                server.kill()  # one that hangs while it ends fails the test, but is not left behind


def _wait_for(url: str, server: "subprocess.Popen[bytes]", runs: int) -> None:
    until = time.monotonic() + HANG
    while time.monotonic() < until and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=HANG) as reply:
                if reply.read().count(b'"written"') >= runs:
                    return
        except OSError:
            pass  # not up yet
        time.sleep(0.2)
    raise RuntimeError(f"{url} did not show {runs} runs (exit code {server.poll()})")


def new_page(chromium: Any) -> Any:
    """A page that remembers nothing of others."""
    page = chromium.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(1000 * HANG)
    return page


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium without a window; whatever asks for it is skipped where it is not installed."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install -e '.[test]'"
    )
    if not Path(CHROMIUM).exists():
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield chromium
        finally:
            chromium.close()
