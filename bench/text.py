"""Much text: what reading and tokenising it takes in memory and time, and how soon a second run begins.

    python bench/text.py --mb 200 --folder /tmp/texts

Writes text with the frequencies of natural words (Zipf's law over the words of the shipped stories and made-up ones) as
40 files, .txt and .jsonl, and takes it through `data=file tokenizer=bpe` with all cores. Beside it, tiktoken's own
`encode_ordinary` in one thread with the same ranks on a part of the same text, before and after. Memory is what is
anonymous in all processes together, beside that of processes that have only imported what they need.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
FILES = 40
WORDS = 200_000  # kinds
DOCUMENT = 400  # words of the median document of .jsonl
AT_ONCE = 1 << 17  # words
SAMPLE = 1 << 24  # bytes that tiktoken encodes

IMPORTS = "import attnlab.training.run, attnlab.cli"
WORKER_IMPORTS = "import attnlab.data.vocabularies, attnlab.data.tokenising"
RUN = """
import sys, time
begun = time.perf_counter()
import attnlab.training.run
from pathlib import Path
from attnlab.data.datamodule import TextDataModule
from attnlab.data.load import load_dataset
from attnlab.data.text_files import File
from attnlab.data.vocabularies import BPE
imported = time.perf_counter()
_, splits = load_dataset(File(sys.argv[1]), BPE(8192), sys.argv[2])
data = TextDataModule(splits, seed=0, batch_size=16, context=256)
batch = next(iter(data.train_dataloader()))
ready = time.perf_counter()
print(imported - begun, ready - imported, len(splits.train) + len(splits.val), splits.describe(256), sep="|")
"""


def write_corpus(folder: Path, megabytes: int) -> None:
    """Files of text by Zipf's law, half .txt of lines and paragraphs, half .jsonl of documents of various lengths."""
    rng = np.random.default_rng(0)
    stories = (ROOT / "data" / "stories.txt").read_text(encoding="utf-8").split()
    names, counts = np.unique(stories, return_counts=True)
    real = names[np.argsort(-counts)].tolist()
    parts = [word[:3] for word in real[:400]]
    drawn = rng.integers(len(parts), size=(WORDS, 4)).tolist()
    more = ("".join(parts[i] for i in row[: 2 + n % 3]) for n, row in enumerate(drawn))
    vocabulary = list(dict.fromkeys([*real, *more]))[:WORDS]
    spelled = [word.encode() for word in (*vocabulary, *(f"{word}.\n" for word in vocabulary))]
    weights = 1 / (np.arange(len(vocabulary)) + 2.7)  # Zipf and Mandelbrot
    edges = np.cumsum(weights / weights.sum())[:-1]
    folder.mkdir(parents=True)
    for number in range(FILES):
        kind, left = (".txt", ".jsonl")[number % 2], megabytes * 10**6 // FILES
        with (folder / f"{number:02}{kind}").open("wb") as file:
            while left > 0:
                words = np.searchsorted(edges, rng.random(AT_ONCE)) + len(vocabulary) * (rng.random(AT_ONCE) < 0.08)
                lengths = rng.lognormal(np.log(DOCUMENT), 1.0, AT_ONCE // DOCUMENT).astype(int) + 5
                for document in np.split(words, np.cumsum(lengths)):
                    text = b" ".join([spelled[i] for i in document.tolist()])
                    line = json.dumps({"text": text.decode()}).encode() + b"\n"
                    left -= file.write(line if kind == ".jsonl" else text + b"\n\n")
                    if left <= 0:
                        break


def anonymous(pid: int) -> int:
    """Bytes of anonymous memory of a process and all below it."""
    total = 0
    for process in family(pid):
        try:
            lines = Path(f"/proc/{process}/status").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))
    return total


def family(pid: int) -> Iterator[int]:
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from family(int(child))


@contextmanager
def watched(pid: int) -> Iterator[list[int]]:
    """The most memory that was seen, and the most processes, while the block runs."""
    most, over = [0, 0], threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            most[0], most[1] = max(most[0], anonymous(pid)), max(most[1], len(list(family(pid))))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


def python(code: str, *arguments: str) -> tuple[str, list[int], float]:
    """What a process prints, the most that it took with those below it, and the processor seconds of all of them."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)
    with watched(process.pid) as most:
        out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(process.returncode)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return out.strip(), most, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def after_imports(imports: str) -> int:
    """Bytes of anonymous memory of a process that has only imported."""
    code = (
        f"{imports}\nimport os\nprint([l for l in open('/proc/self/status') if l.startswith('RssAnon')][0].split()[1])"
    )
    return int(python(code)[0]) << 10


def tiktoken_rate(corpus: Path, cache: Path) -> float:
    """Tokens per processor second of `encode_ordinary`, with the ranks of the run, on the beginning of a .txt."""
    import tiktoken

    stored = json.loads(next((cache / "tokenizers").glob("bpe-*.json")).read_text())
    from attnlab.data.stored_tokenizers import from_json

    tokenizer = from_json(json.dumps(stored), "the cache")
    ranks = {token: i for i, token in enumerate(tokenizer.tokens[: stored["n_ranks"]])}
    encoding = tiktoken.Encoding("bench", pat_str=stored["pattern"], mergeable_ranks=ranks, special_tokens={})
    with sorted(corpus.glob("*.txt"))[0].open("rb") as file:
        text = file.read(SAMPLE).decode(errors="ignore")
    started = time.process_time()
    count = len(encoding.encode_ordinary(text))
    return count / (time.process_time() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/attnlab-text"))
    options = parser.parse_args()
    corpus, cache = options.folder / "corpus", options.folder / "cache"
    shutil.rmtree(options.folder, ignore_errors=True)
    cores = len(os.sched_getaffinity(0))
    started = time.perf_counter()
    write_corpus(corpus, options.mb)
    seconds, load = time.perf_counter() - started, os.getloadavg()[0]
    print(f"{options.mb} MB written in {seconds:.0f} s; {cores} cores, load {load:.1f}", flush=True)
    base = after_imports(IMPORTS) + cores * after_imports(WORKER_IMPORTS)
    out, most, _ = python(RUN, str(corpus), str(cache))
    imports, first, n_tokens, description = out.split("|")
    print(description)
    print(
        f"memory: {most[0] / 2**20:,.0f} MiB anonymous in {most[1]} processes, {base / 2**20:,.0f} of them by imports"
    )
    print(f"first run: imports {float(imports):.1f} s, first batch after {float(first):.1f} s more")
    rate = int(n_tokens) / float(first)
    alone = tiktoken_rate(corpus, cache)
    print(f"{rate / 1e6:.2f} M tokens/s with reading, checking and learning")
    for folder in (cache / "tokens").iterdir():
        shutil.rmtree(folder)
    again, _, busy = python(RUN, str(corpus), str(cache))
    alone = (alone + tiktoken_rate(corpus, cache)) / 2
    rate = int(n_tokens) / float(again.split("|")[1])
    share = rate / alone / cores
    print(f"tokenising alone: {rate / 1e6:.2f} M tokens/s, {share:.2f} of tiktoken's {alone / 1e6:.2f} M x {cores}")
    out, _, idle = python(RUN, str(corpus), str(cache))
    own = int(n_tokens) / (busy - idle)  # what a busy machine does not blur
    print(f"by processor time: {own / 1e6:.2f} M tokens/s, {own / alone:.2f} of tiktoken's")
    imports, first, *_ = out.split("|")
    load = os.getloadavg()[0]
    print(f"second run: imports {float(imports):.1f} s, first batch after {float(first):.2f} s more; load {load:.1f}")
    shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
