"""Which keys a query may read."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from attnlab.attention.banded import FEWEST, Cut, local_global_cuts, strided_cuts
from attnlab.options import Configurable, Count, option


class Mask(Configurable, nn.Module, ABC):
    """A rule over absolute positions. `cache_size` is how many keys a later query may still read; None means all.

    A mask whose `cache_size` is a number also says, in `slot_positions`, which position each of that many slots stores
    while decoding: by default a ring, position p in slot p % cache_size. `contiguous` says that decoding has every
    token between a key that a query can read and the query itself, which some score modifiers need. `max_lookback` is a
    promise that no query reads further back than that many last keys, its own included, but for the first `sinks`
    tokens, so that training need not look there; None promises nothing. `by_distance` promises that a key is visible or
    not by how far back it stands, wherever the query is, so that documents in a row need no positions of their own.
    """

    causal = True
    contiguous = True
    by_distance = False
    sinks = 0

    def setup(self) -> None:
        self.cache_size: int | None = None
        self.max_lookback: int | None = None

    @abstractmethod
    def visible(self, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Bool[Tensor, "t s"]: ...

    def cuts(self, length: int, device: torch.device) -> list[Cut]:
        """Of a sparse map without a band: queries with all keys that they may read, each query once; else nothing."""
        return []

    def slot_positions(self, length: int, device: torch.device) -> Int[Tensor, " slots"]:
        """The position each slot stores after `length` tokens, -1 where it is still empty."""
        assert self.cache_size is not None
        slot = torch.arange(self.cache_size, device=device)
        latest = length - 1 - (length - 1 - slot) % self.cache_size
        return torch.where(latest >= 0, latest, -1)


class Causal(Mask):
    """Every key up to and including the query's own position. Rule: Visible_ij = (j <= i). Source: arXiv 1706.03762."""

    def visible(self, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Bool[Tensor, "t s"]:
        return k_pos[None, :] <= q_pos[:, None]


class Full(Mask):
    """Every key, later ones too: the chapter's first examples. A language model could read the answer.

    Rule: Visible_ij = true. Source: arXiv 1706.03762 (the encoder).
    """

    causal = False

    def visible(self, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Bool[Tensor, "t s"]:
        return torch.ones(q_pos.numel(), k_pos.numel(), dtype=torch.bool, device=q_pos.device)


class Windowed(Mask, ABC):
    """What masks with a window share."""

    window: Count = option(kw_only=False, short=3, doc="Latest keys that a query may read, its own included.")

    def setup(self) -> None:
        super().setup()
        self.max_lookback = self.window


class Window(Windowed):
    """The last `window` keys, the token itself included.

    Rule: Visible_ij = (0 <= i - j < window). Source: Longformer, arXiv 2004.05150. Decoding keeps a ring of `window`
    rows.
    """

    by_distance = True

    def setup(self) -> None:
        super().setup()
        self.cache_size = self.window

    def visible(self, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Bool[Tensor, "t s"]:
        distance = q_pos[:, None] - k_pos[None, :]
        return (distance >= 0) & (distance < self.window)


class WindowSinks(Windowed):
    """The last `window` keys and the first `sinks` tokens, where softmax heads park the weight they have no use for.

    Rule: Visible_ij = (j <= i) and (i - j < window or j < sinks). Decoding keeps sinks + window rows: one for each
    sink, and a ring.

    Source: StreamingLLM, arXiv 2309.17453. Where we differ: positions stay those of the text; the paper counts them in
    the cache.
    """

    contiguous = False

    sinks: Count = option(kw_only=False, short=1, doc="First tokens that every query may read.")

    def setup(self) -> None:
        super().setup()
        self.cache_size = self.sinks + self.window

    def visible(self, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Bool[Tensor, "t s"]:
        distance = q_pos[:, None] - k_pos[None, :]
        return (distance >= 0) & ((distance < self.window) | (k_pos < self.sinks))

    def slot_positions(self, length: int, device: torch.device) -> Int[Tensor, " slots"]:
        """Slots 0 .. sinks store the sinks for good; the others are a ring of the tokens after them."""
        sink = torch.arange(self.sinks, device=device)
        slot = torch.arange(self.window, device=device)
        latest = length - 1 - (length - 1 - self.sinks - slot) % self.window
        return torch.cat([torch.where(sink < length, sink, -1), torch.where(latest >= self.sinks, latest, -1)])


class Chunked(Mask):
    """The earlier keys of the same chunk of `chunk` tokens; nothing crosses the border of a chunk.

    Rule: Visible_ij = (j <= i) and (i // chunk = j // chunk). Source: blockwise attention, arXiv 1911.02972, without
    its permutations; Llama 4 alternates such layers with full ones. Decoding keeps a ring of `chunk` rows.
    """

    chunk: Count = option(kw_only=False, short=3, doc="Tokens of a chunk.")

    def setup(self) -> None:
        self.cache_size = self.max_lookback = self.chunk

    def visible(self, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Bool[Tensor, "t s"]:
        same = q_pos[:, None] // self.chunk == k_pos[None, :] // self.chunk
        return same & (k_pos[None, :] <= q_pos[:, None])


class Strided(Mask):
    """The last `stride` keys, and every `stride`-th key before them.

    Rule: Visible_ij = (j <= i) and (i - j < stride or (i - j) % stride = 0). Source: Sparse Transformers, arXiv
    1904.10509, its two patterns in one head. Two layers reach every token. Decoding keeps all rows: each is read again.
    """

    stride: Count = option(kw_only=False, short=2, doc="Of older keys one in so many is read; of the latest so many.")

    def visible(self, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Bool[Tensor, "t s"]:
        distance = q_pos[:, None] - k_pos[None, :]
        return (distance >= 0) & ((distance < self.stride) | (distance % self.stride == 0))

    def cuts(self, length: int, device: torch.device) -> list[Cut]:
        return strided_cuts(length, self.stride, device) if length > FEWEST else []


class Dilated(Windowed):
    """Every `dilation`-th of the last keys, `window` of them, so that a few keys reach far.

    Rule: Visible_ij = (0 <= i - j < window * dilation) and (i - j) % dilation = 0. Source: Longformer, arXiv
    2004.05150. Decoding keeps a ring of (window - 1) * dilation + 1 rows.
    """

    dilation: Count = option(kw_only=False, doc="Distance from one key to the next.")

    def setup(self) -> None:
        self.cache_size = self.max_lookback = (self.window - 1) * self.dilation + 1

    def visible(self, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Bool[Tensor, "t s"]:
        distance = q_pos[:, None] - k_pos[None, :]
        return (distance >= 0) & (distance < self.window * self.dilation) & (distance % self.dilation == 0)


class LocalGlobal(Windowed):
    """The last `window` keys, and global tokens, one in `every`, which read all and are read by all later ones.

    Rule: Visible_ij = (j <= i) and (i - j < window or j % every = 0 or i % every = 0). Source: the window and the
    global tokens of BigBird, arXiv 2007.14062 (without its random keys), made causal. Decoding keeps all rows: the next
    global token reads them.
    """

    every: Count = option(kw_only=False, doc="One token in so many is global.")

    def setup(self) -> None:
        Mask.setup(self)  # a global token reads all

    def visible(self, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Bool[Tensor, "t s"]:
        i, j = q_pos[:, None], k_pos[None, :]
        return (j <= i) & ((i - j < self.window) | (j % self.every == 0) | (i % self.every == 0))

    def cuts(self, length: int, device: torch.device) -> list[Cut]:
        return local_global_cuts(length, self.window, self.every, device) if length > FEWEST else []
