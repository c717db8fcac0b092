"""Tokenizers of Hugging Face's `tokenizers`, and what they do not give back."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Int32

from attnlab.data.hf_backend import MOST_IDS, Backend
from attnlab.data.tokenizers import Tokenizer
from attnlab.errors import UsageError

PROBES = {  # what a tokenizer may not give back, and a text that shows it
    "upper case": "Abc",
    "letters with accents": "caf\u00e9",
    "accents that stand apart": "cafe\u0301",
    "characters that stand for others": "\ufb01\u00b2",
    "a blank at the start": " a",
    "several blanks": "a  b" + 40 * " " + "c",
    "tabs": "a\tb",
    "line breaks": "a\nb\n\n",
    "carriage returns": "a\r\nb",
    "blanks around signs": "a , b .c",
    "the sign \u2581": "a\u2581b",
    "rare characters": "\U0001f98a\U00013000",
}


class HFTokenizer(Tokenizer):
    """A tokenizer of Hugging Face's `tokenizers` by the content of its tokenizer.json, its `definition`.

    Ids without a piece stand for no bytes, up to `n_vocab`: embeddings are often padded. What looks like a special
    token is ordinary text; other added tokens are part of the vocabulary. A blank that stands before the first word in
    the ids alone is taken off when a whole text is decoded; `losses` are what encoding changes in a text for good.
    """

    kind = "hf"

    def __init__(
        self,
        name: str,
        definition: Mapping[str, Any],
        *,
        n_vocab: int | None = None,
        bos: Sequence[int] = (),
        eos: Sequence[int] = (),
    ) -> None:
        self.definition = dict(definition)
        self._backend = Backend(self.definition)
        pieces = self._backend.pieces
        size = max(pieces) + 1 if n_vocab is None else n_vocab
        if (most := max(pieces.keys() - self._backend.special, default=0)) >= size or size > MOST_IDS:
            raise ValueError(f"its ids go up to {most}, and the model has {size}")
        super().__init__(name, [pieces.get(i, b"") for i in range(size)])
        self.bos, self.eos = tuple(bos), tuple(eos)
        if wrong := [i for i in (*bos, *eos) if type(i) is not int or not 0 <= i < size]:
            raise ValueError(f"it begins or ends texts with id {wrong[0]}, which it does not have")

    def _encode(self, text: str) -> Int32[np.ndarray, " n"]:
        try:
            return np.array(self._backend.encode(text), dtype=np.int32)
        except ValueError as error:  # a pattern that takes too many tries, a sign it has no id for
            raise UsageError(f"tokenizer {self.name} cannot cut this text: {error}") from error

    def decode_bytes(self, ids: Iterable[SupportsIndex]) -> bytes:
        text = super().decode_bytes(ids)
        return text.removeprefix(self._backend.start).removesuffix(self._backend.end)

    @cached_property
    def losses(self) -> tuple[str, ...]:
        """What does not come back when a text is encoded and decoded again, in words."""
        back = {text: self._back(text) for text in ("a", *PROBES.values())}
        blank = ("the start of a text: it begins with a blank",) if back["a"] == " a" else ()
        return (*blank, *(what for what, text in PROBES.items() if back[text] not in (text, f" {text}")))

    def _back(self, text: str) -> str:
        try:
            return self.decode(self.encode(text))
        except UsageError:  # refused, and not lost
            return text

    def _stored(self) -> dict[str, Any]:
        return {"definition": self.definition, "bos": self.bos, "eos": self.eos}

    def _identity(self) -> dict[str, Any]:
        return {"n_vocab": self.n_vocab, **self._stored()}

    @classmethod
    def _restore(cls, name: str, n_vocab: int, stored: dict[str, Any]) -> "Tokenizer":
        return cls(name, stored.pop("definition"), n_vocab=n_vocab, **stored)
