"""How a run gets its tokenizer: trained on its own text, counted from it, or taken from tiktoken."""

import hashlib
import json
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple

from attnlab.data.download import fetch, read_cached, sha256_of
from attnlab.data.hf_backend import SIGNS
from attnlab.data.hf_files import load_hf_tokenizer
from attnlab.data.parallel import each
from attnlab.data.stored_tokenizers import from_json, load_tokenizer
from attnlab.data.stretches import Bad, Split, Unit, read
from attnlab.data.text import Text as AnyText
from attnlab.data.tokenizers import END_OF_TEXT, ByteTokenizer, CharTokenizer, RankTokenizer, TaskTokenizer, Tokenizer
from attnlab.errors import UsageError
from attnlab.options import Count, Text, checked
from attnlab.options.rules import Rule
from attnlab.store.files import expand_path, write_atomically
from attnlab.store.names import TOKENIZER

N_BYTES = 256
MILLION = 10**6
BYTES_PER_ID = 256  # a vocabulary sized to its corpus has about one id per so many training bytes ...
LEAST_AUTO, MOST_AUTO = 512, 8192  # ... within these limits
MIN_FREQUENCY = 2  # a pair that occurs once is not worth an id
MAX_TOKEN_CHARACTERS = 24  # a ruler of 70 asterisks is not worth one either

# Pieces that no token crosses: a word with the space before it (don't is one word), up to three digits, other signs,
# line breaks, and other blanks. Its alternatives leave no character out, so nothing gets lost. It has no look-ahead,
# and no piece is longer than twice the longest token and a few signs: learning merges takes time in the square of a
# piece's length, and scripts without blanks between words would make whole paragraphs one piece. Understood alike by
# Hugging Face's Oniguruma and tiktoken's Rust engine.
_RUN = f"{{1,{MAX_TOKEN_CHARACTERS}}}"
_LETTERS = rf"[\p{{L}}\p{{M}}]{_RUN}"
PATTERN = "|".join(
    [
        rf" ?{_LETTERS}(?:['\u2019]{_LETTERS})?",
        r" ?\p{N}{1,3}",
        rf" ?[^\s\p{{L}}\p{{M}}\p{{N}}]{_RUN}",
        rf"[\r\n]{_RUN}",
        rf"[^\S\r\n]{_RUN}",
    ]
)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable for a while: the only way to tell some libraries."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


class Vocabulary(ABC):
    """A way to get a tokenizer. Building one is cheap; `prepare` fetches what is needed, `build` does the work."""

    def prepare(self, cache_dir: Path | str) -> None:
        """Get everything that must come from elsewhere, or say why not, before any text is read."""
        return

    @abstractmethod
    def build(self, text: AnyText, cache_dir: Path | str) -> Tokenizer:
        """The tokenizer for a text; what took time is kept under `cache_dir`."""

    def remarks(self, text: AnyText) -> list[str]:
        """What a run should say of how its tokenizer came about."""
        return []


def sized_to(n_bytes: int) -> int:
    """The vocabulary for a training text of `n_bytes`: n_bytes / 256, rounded down to a power of two, 512 to 8192."""
    ids = min(max(n_bytes // BYTES_PER_ID, LEAST_AUTO), MOST_AUTO)
    return 1 << (ids.bit_length() - 1)


class BPE(Vocabulary):
    """Byte-pair encoding (arXiv 1508.07909) over bytes, learnt from the training part only.

    Ids 0 .. 255 are the bytes, each further id the most frequent pair of neighbours at its time. `n_vocab`
    null sizes the vocabulary to the text (see `sized_to`) and takes fewer ids where no pair occurs twice any
    more; a number that the text cannot fill is refused. Of a longer text about `sample_mb` million bytes are learnt
    from: the beginnings of its stretches of 16 MiB, equally much of each. The last id of a text of several documents
    stands for their ends.
    """

    @checked  # 256 bytes and one merge at least
    def __init__(
        self, n_vocab: Annotated[int, Rule(int, least=N_BYTES + 1)] | None = None, sample_mb: Count = 32
    ) -> None:
        self.n_vocab, self.sample_mb = n_vocab, sample_mb

    def build(self, text: AnyText, cache_dir: Path | str) -> Tokenizer:
        ends = [END_OF_TEXT] if text.several else []
        size = (self.n_vocab or sized_to(text.n_train_bytes)) - len(ends)
        sample = f"|{self.sample_mb}" if self._samples(text) else ""
        settings = f"{PATTERN}|{MIN_FREQUENCY}|{MAX_TOKEN_CHARACTERS}|{size}|{text.train_key}{sample}|{len(ends)}"
        path = Path(cache_dir) / "tokenizers" / f"bpe-{sha256_of(settings.encode())[:16]}.json"
        tokenizer = _read_kept(path)
        if tokenizer is None:
            tokens = train_bpe(text.training_pieces(self.sample_mb * MILLION), size)
            tokenizer = RankTokenizer("bpe", [*tokens, *ends], pattern=PATTERN, n_ranks=len(tokens))
            write_atomically(path, tokenizer.to_json().encode(), key="paths.cache")
        if self.n_vocab is not None and tokenizer.n_vocab < self.n_vocab:
            raise UsageError(
                f"tokenizer.n_vocab ({self.n_vocab}) is more than the training text of {text.name} "
                f"({text.n_train_bytes} bytes) can fill: it must be at most {tokenizer.n_vocab}, or null"
            )
        return tokenizer

    def _samples(self, text: AnyText) -> bool:
        return text.n_train_bytes > self.sample_mb * MILLION

    def remarks(self, text: AnyText) -> list[str]:
        if not self._samples(text):
            return []
        whole = text.n_train_bytes / MILLION
        return [
            f"byte pairs were learnt from {self.sample_mb} of its {whole:,.0f} MB, taken evenly (tokenizer.sample_mb)"
        ]


def _read_kept(path: Path) -> Tokenizer | None:
    """A tokenizer from the cache; a damaged one is as good as none, for it can be made again."""
    try:
        return from_json(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError, UsageError):
        return None


def train_bpe(text: str | Iterable[str], n_vocab: int) -> list[bytes]:
    """Learn at most `n_vocab` tokens from a text, or its pieces: the 256 bytes, then one per merge, in the order they
    were learnt."""
    from tokenizers import Regex, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Trainee

    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainee = Trainee(models.BPE())
    trainee.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PATTERN), "isolated"), bytes_of])
    trainer = trainers.BpeTrainer(
        vocab_size=n_vocab,
        min_frequency=MIN_FREQUENCY,
        max_token_length=MAX_TOKEN_CHARACTERS,
        initial_alphabet=sorted(bytes_of.alphabet()),
        show_progress=False,
    )
    with _environment("TOKENIZERS_PARALLELISM", "false"):  # one text has no parts to share, and forks stay silent
        trainee.train_from_iterator([text] if isinstance(text, str) else text, trainer)
    merges = json.loads(trainee.to_str())["model"]["merges"]
    pairs = (bytes(SIGNS[sign] for sign in left + right) for left, right in merges)
    # Two merges can spell the same bytes; the first one gives the rank.
    return list(dict.fromkeys([*(bytes([i]) for i in range(N_BYTES)), *pairs]))


class Characters(Vocabulary):
    """One id for each character of the corpus, of both parts, so that the validation text has no unknown one."""

    def build(self, text: AnyText, cache_dir: Path | str) -> Tokenizer:
        units = [(unit, text.field) for unit in text.units()]
        sizes = [sum(stretch.weight for stretch in unit) for unit, _ in units]
        characters = set[str]().union(*(some for _, some in each(characters_of, units, sizes, "characters")))
        return CharTokenizer("char", [c.encode() for c in characters])


def characters_of(task: tuple[Unit, str]) -> set[str]:
    """The characters of a unit, whatever its documents are for."""
    unit, field = task
    split = Split(0, 0)
    pieces = (piece for stretch in unit for piece in read(stretch, field, split) if not isinstance(piece, Bad))
    return set[str]().union(*(piece.text for piece in pieces))


class Bytes(Vocabulary):
    """One id per byte: 256, whatever the corpus."""

    def build(self, text: AnyText, cache_dir: Path | str) -> Tokenizer:
        return ByteTokenizer()


class TokenIds(Vocabulary):
    """The numbers themselves, as text with blanks between them: for ids whose tokenizer is not at hand.

    `n_vocab` null takes as many as the largest id of the data needs.
    """

    @checked
    def __init__(self, n_vocab: Count | None = None) -> None:
        self.n_vocab = n_vocab

    def build(self, text: AnyText, cache_dir: Path | str) -> Tokenizer:
        if text.largest is None:
            raise UsageError(
                "tokenizer=ids names the ids of data=tokens: choose tokenizer=bpe, char or byte for a text"
            )
        n_vocab = self.n_vocab or text.largest + 1
        return TaskTokenizer("ids", [f"{i} ".encode() for i in range(n_vocab)])


class HuggingFace(Vocabulary):
    """The tokenizer of a model's folder: its tokenizer.json, or vocab.json and merges.txt."""

    @checked
    def __init__(self, path: Text | None = None) -> None:
        if not path:
            raise UsageError("tokenizer=hf needs a folder: set tokenizer.path=FOLDER, one with a tokenizer.json")
        self.path = expand_path(path, key="tokenizer.path")

    def build(self, text: AnyText, cache_dir: Path | str) -> Tokenizer:
        return load_hf_tokenizer(self.path)


class OfRun(Vocabulary):
    """The tokenizer that a run or an import was made with."""

    @checked
    def __init__(self, path: Text | None = None) -> None:
        if not path:
            raise UsageError("tokenizer=run needs the folder of a run: set tokenizer.path=FOLDER, or init_from=FOLDER")
        self.path = expand_path(path, key="tokenizer.path")

    def build(self, text: AnyText, cache_dir: Path | str) -> Tokenizer:
        return load_tokenizer(self.path / TOKENIZER, limits=False)


class Remote(NamedTuple):
    """A file of a tiktoken encoding: its address and the SHA-256 it must have."""

    url: str
    sha256: str

    @property
    def cache_name(self) -> str:
        """The name under which tiktoken looks for it in its cache folder."""
        return hashlib.sha1(self.url.encode(), usedforsecurity=False).hexdigest()


_BLOB = "https://openaipublic.blob.core.windows.net"
REMOTE_FILES = {
    "gpt2": (
        Remote(
            f"{_BLOB}/gpt-2/encodings/main/vocab.bpe",
            "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
        ),
        Remote(
            f"{_BLOB}/gpt-2/encodings/main/encoder.json",
            "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
        ),
    ),
    "cl100k_base": (
        Remote(
            f"{_BLOB}/encodings/cl100k_base.tiktoken",
            "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        ),
    ),
    "o200k_base": (
        Remote(
            f"{_BLOB}/encodings/o200k_base.tiktoken",
            "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        ),
    ),
}


class Tiktoken(Vocabulary):
    """One of tiktoken's own vocabularies, fetched once.

    Files are looked for where tiktoken itself does (TIKTOKEN_CACHE_DIR, then its folder under the system's
    temporary one) and kept there, or in `cache_dir` where that variable is not set. We fetch them, not
    tiktoken, because it waits without a time limit.
    """

    def __init__(self, name: str) -> None:
        if name not in REMOTE_FILES:
            raise UsageError(f"tokenizer.name ({name}) must be {' | '.join(REMOTE_FILES)}")
        self.name = name

    def folder(self, cache_dir: Path | str) -> Path:
        """Where the files are, or will be."""
        chosen = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR", ""))
        if chosen:
            return Path(chosen)
        usual = Path(tempfile.gettempdir()) / "data-gym-cache"
        has_all = all(read_cached(usual / f.cache_name, f.sha256) is not None for f in REMOTE_FILES[self.name])
        return usual if has_all else Path(cache_dir).absolute() / "tiktoken"

    def prepare(self, cache_dir: Path | str) -> None:
        folder = self.folder(cache_dir)
        otherwise = "set TIKTOKEN_CACHE_DIR to a folder that holds it under that name"
        for file in REMOTE_FILES[self.name]:
            who, key = f"tokenizer={self.name}", "TIKTOKEN_CACHE_DIR"
            fetch(file.url, folder / file.cache_name, file.sha256, who=who, otherwise=otherwise, key=key)

    def build(self, text: AnyText, cache_dir: Path | str) -> Tokenizer:
        import tiktoken

        self.prepare(cache_dir)
        with _environment("TIKTOKEN_CACHE_DIR", str(self.folder(cache_dir))):
            return RankTokenizer.from_encoding(tiktoken.get_encoding(self.name))
