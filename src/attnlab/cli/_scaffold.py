"""Skeletons of variants: each one trains as it is. Of a whole layer the laws say what to write next, causality first;
one of a slot keeps them all as it is."""

import importlib.util
import keyword
import re
import shlex
from pathlib import Path

from attnlab.cli._slot_skeletons import SLOTS
from attnlab.errors import UsageError

SOFTMAX = '''"""NAME: softmax attention with a rule of your own for who is read, and how much."""

from attnlab.attention.heads import Heads
from attnlab.attention.multi_head import MultiHeadAttention
from jaxtyping import Bool, Float, Int
from torch import Tensor


class CLASS(MultiHeadAttention):
    """Write here in a sentence what moves between tokens, and what that is good for.

    o_i = sum_j softmax(s_ij) v_j with s_ij = q_i . k_j / sqrt(d). Write your rule as such a formula.

    Source: not written yet; arXiv and the number of the paper.
    """

    # An option of yours is a line here, with what it may hold (attnlab.options), its default and a sentence, and a line
    # of the YAML: block: Count = option(default=16, doc="Tokens of a block.")

    fusable = False  # a fused kernel would not ask the methods below

    def setup(self) -> None:
        super().setup()
        # Parameters of yours go here: nn.Linear and nn.Parameter. All options are set: self.n_heads, self.block.

    def visible(self, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Bool[Tensor, "t s"]:
        """Which keys (columns, at positions k_pos; -1 is an empty place) each query (rows, at q_pos) may read."""
        # MARKED: all tokens read all others, later ones too, so that `causality` is broken. It should read:
        # return super().visible(q_pos, k_pos)
        return (k_pos >= 0).expand(q_pos.numel(), -1)

    def scores(
        self, heads: Heads, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"], visible: Bool[Tensor, "*b t s"]
    ) -> Float[Tensor, "b h t s"]:
        """How well each key matches each query, before the softmax. Your rule goes here.

        `heads` holds q (b h t d), k and v of the heads that are shared (b g s d), positions applied already;
        `self.keys` deals keys out to query heads. What stands below scales q . k, lets score modifiers act and adds
        the bias of positions such as ALiBi, so call it or do the same; what is not visible is masked afterwards. Keys
        come from decoding, too: say what depends on distance in terms of q_pos and k_pos, not of rows and columns.
        """
        return super().scores(heads, q_pos, k_pos, visible)
'''

RECURRENT = '''"""NAME: a memory of fixed size with a rule of your own for how it is written and read."""

import torch
from attnlab.attention.heads import Heads, join_heads
from attnlab.attention.precision import full_precision
from attnlab.attention.traits import Traits
from attnlab.attention.projection import QKV
from attnlab.attention.state import StateAttention
from jaxtyping import Float
from torch import Tensor, nn


class CLASS(StateAttention):
    """Write here in a sentence what the memory keeps, and what that is good for.

    S_t = S_{t-1} + k_t v_t^T, o_t = S_t^T q_t / t. Write your rule as such a formula.

    Source: not written yet; arXiv and the number of the paper.
    """

    # An option of yours is a line here, with what it may hold (attnlab.options), its default and a sentence, and a line
    # of the YAML: chunk: Count = option(default=64, doc="Tokens of a chunk.")

    traits = Traits(map_kind="signed", growth="constant")  # weights of any sign; what decoding keeps does not grow

    def setup(self) -> None:
        super().setup()
        # Parameters go here. All options are set: self.d_model, self.n_heads, self.head_dim.
        self.qkv = QKV(self)
        self.to_out = nn.Linear(self.n_heads * self.value_dim, self.d_out, bias=False)

    def project(self, x: Float[Tensor, "b t c"], start: int = 0, tail: Tensor | None = None) -> Heads:
        """Queries, keys and values of tokens that stand at positions start, start + 1, ..."""
        q, k, v, _ = self.qkv(x, tail)
        return Heads(self.position.rotate(q, start), self.position.rotate_keys(k, start), v)

    def empty(self, batch: int, value_dim: int) -> Float[Tensor, "b h d v"]:
        """The memory before the first token."""
        return self.zeros(batch, self.n_heads, self.head_dim, value_dim)

    def scan(
        self, heads: Heads, memory: Float[Tensor, "b h d v"], start: int
    ) -> tuple[Float[Tensor, "b h t v"], Float[Tensor, "b h d v"]]:
        """Write each token into the memory and read it: training, maps and decoding all come through here.

        Must be linear in the values, and go on from the memory it is given. A loop over tokens is slow but plain; the
        rules of attnlab.attention.scan do the same in chunks.
        """
        work = memory.dtype  # float32 at least: sums over many tokens need it
        with full_precision(memory.device):
            q, k, v = (part.to(work) for part in heads[:3])
            read = [q[:, :, :0] @ memory]  # what no tokens read
            for i in range(q.size(2)):
                # MARKED: writes all tokens from i on, later ones too, so that `causality` is broken. It should read:
                # now = slice(i, i + 1)
                now = slice(i, None)
                memory = memory + k[:, :, now].mT @ v[:, :, now]
                read.append(q[:, :, i : i + 1] @ memory / (start + i + 1))
            return torch.cat(read, dim=2).to(heads.v.dtype), memory

    def merge(self, o: Float[Tensor, "b h t v"], heads: Heads) -> Float[Tensor, "b t o"]:
        """Join the heads, and lead back to the model."""
        return self.to_out(join_heads(o))
'''

PLAIN = '''"""NAME: attention of your own with everything written out, from projections to decoding."""

import torch
from attnlab.attention.base import HeadedAttention
from attnlab.attention.heads import Heads, join_heads, split_heads
from attnlab.attention.traits import Traits
from attnlab.attention.cache import Cache
from attnlab.attention.mask import Causal
from attnlab.attention.shared import Shared
from jaxtyping import Float
from torch import Tensor, nn


class CLASS(HeadedAttention):
    """Write here in a sentence what moves between tokens, and what that is good for.

    o_i = sum_j softmax(q_i . k_j / sqrt(d)) v_j. Write your rule as such a formula.

    Source: not written yet; arXiv and the number of the paper.
    """

    # An option of yours is a line here, with what it may hold (attnlab.options), its default and a sentence, and a line
    # of the YAML: block: Count = option(default=16, doc="Tokens of a block.")

    withdrawn = {"n_kv_heads", "value_dim"}  # inherited options that mean nothing here

    # Rows of the map sum to 1; also sub_probability, nonnegative, signed. What decoding keeps grows linearly; also
    # window, constant.
    traits = Traits(map_kind="probability", growth="linear")
    hooks = frozenset({"rotate"})  # what `project` asks of a position; without it say hooks = frozenset()

    def setup(self) -> None:
        super().setup()
        # Parameters go here. All options are set: self.d_model, self.n_heads, self.head_dim.
        width = self.n_heads * self.head_dim
        self.to_q, self.to_k, self.to_v = (nn.Linear(self.d_model, width, bias=False) for _ in range(3))
        self.to_out = nn.Linear(width, self.d_out, bias=False)

    def project(self, x: Float[Tensor, "b t c"], start: int = 0, tail: Tensor | None = None) -> Heads:
        """Queries, keys and values of tokens that stand at positions start, start + 1, ..."""
        q, k, v = (split_heads(to(x), self.n_heads) for to in (self.to_q, self.to_k, self.to_v))
        return Heads(self.position.rotate(q, start), self.position.rotate_keys(k, start), v)

    def mix(self, heads: Heads) -> Float[Tensor, "b h t v"]:
        """Move information between tokens: your rule goes here. Must be linear in heads.v, for that gives the map.

        There may be more keys than queries: in decoding, the queries are those of the last t of s tokens.
        """
        t, s = heads.q.size(2), heads.k.size(2)
        scores = heads.q @ heads.k.mT * self.head_dim**-0.5
        # MARKED: all tokens read all others, later ones too, so that `causality` is broken. It should read:
        # visible = torch.ones(t, s, dtype=torch.bool, device=scores.device).tril(s - t)
        visible = torch.ones(t, s, dtype=torch.bool, device=scores.device)
        weights = scores.masked_fill(~visible, -torch.inf).softmax(dim=-1)
        return weights.to(heads.v.dtype) @ heads.v

    def merge(self, o: Float[Tensor, "b h t v"], heads: Heads) -> Float[Tensor, "b t o"]:
        """Join the heads, and lead back to the model."""
        return self.to_out(join_heads(o))

    def init_state(self, batch: int, max_len: int) -> Cache:
        """What decoding keeps: here a row of keys and values per token. `growth` says how it grows."""
        sizes = {"heads": self.n_heads, "d": self.head_dim, "v": self.value_dim}
        return Cache.empty(Causal(), batch=batch, max_len=max_len, like=self.anchor, **sizes)

    def step(
        self, x: Float[Tensor, "b n c"], state: Cache, shared: Shared | None = None
    ) -> tuple[Float[Tensor, "b n o"], Cache]:
        """Mix n new tokens after those in the state; gives what `forward` gives for the whole sequence."""
        heads = self.project(x, state.length)
        visible_kv, state = state.append(heads.k, heads.v, Causal())
        heads = heads._replace(k=visible_kv.k.to(heads.k.dtype), v=visible_kv.v.to(heads.v.dtype))
        return self.merge(self.mix(heads), heads), state

    def pairs(self, seq_len: int) -> int:
        """How many (query, key) pairs a head may read in seq_len tokens."""
        return seq_len * (seq_len + 1) // 2
'''

SOFTMAX_YAML = """# Softmax attention with a rule of its own for who is read, and how much.
defaults: [multi_head, _self_]
_target_: NAME.CLASS
# Everything that multi_head has can be set here and on the command line: attention/mask=window, attention.n_heads=2.
"""

RECURRENT_YAML = """# A memory of fixed size with a rule of its own for writing and reading.
_target_: NAME.CLASS
_partial_: true
n_heads: ${model.n_heads}
position: ${position.inside}
"""

PLAIN_YAML = """# Attention of its own with everything written out.
_target_: NAME.CLASS
_partial_: true
n_heads: ${model.n_heads}
position: ${position.inside}
"""

SKELETONS = {"softmax": (SOFTMAX, SOFTMAX_YAML), "recurrent": (RECURRENT, RECURRENT_YAML), "plain": (PLAIN, PLAIN_YAML)}
SKELETONS |= {kind: (slot.module, slot.settings) for kind, slot in SLOTS.items()}
KINDS = tuple(SKELETONS)
VALUES = ("null", "true", "false", "nan", "inf")  # in attention=NAME, Hydra reads these as values


def write(name: str, folder: str = ".", kind: str = KINDS[0]) -> list[Path]:
    """Write the class and the YAML of a new variant, and say where; never over anything that is there."""
    from attnlab.config.keys import options  # only now: it needs Hydra, which takes a second to import

    places = Path(folder) / f"{name}.py", Path(folder) / "configs" / "attention" / f"{name}.yaml"
    class_name = _class_name(name, kind)
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or keyword.iskeyword(name) or name.lower() in VALUES:
        raise UsageError(
            f"name ({name}) must be a word that Python takes for a module: letters, digits and _, a letter first"
        )
    for path in (*places, Path(folder) / name):
        if path.exists():
            raise UsageError(f"{path} is there already, and nothing is written over: choose another name or folder=")
    if name in options("attention"):
        raise UsageError(f"name ({name}) is the name of a variant that attnlab has: choose another")
    if (spec := importlib.util.find_spec(name)) is not None:
        where = spec.origin or ", ".join(spec.submodule_search_locations or [])
        raise UsageError(f"name ({name}) is the name of a module that Python finds elsewhere ({where}): choose another")
    texts, put_in = SKELETONS[kind], {"NAME": name, "CLASS": class_name}
    if any(re.search(rf"\b{class_name}\b", text) for text in texts):
        raise UsageError(f"name ({name}) makes a class {class_name}, which attnlab has: choose another")
    try:
        for path, text in zip(places, texts, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(re.sub(r"\b(NAME|CLASS)\b", lambda word: put_in[word[0]], text))
    except OSError as error:
        raise UsageError(f"folder ({folder}) cannot be written to: {error.filename}: {error.strerror}") from error
    return list(places)


def _class_name(name: str, kind: str) -> str:
    """my_rule -> MyRuleAttention, or MyRuleMask."""
    joined = "".join(word[0].upper() + word[1:] for word in name.split("_") if word)
    return joined.removesuffix(ending := kind.title() if kind in SLOTS else "Attention") + ending


def next_commands(name: str, folder: str = ".") -> list[str]:
    """What to type after `write`: judge the variant, and train it."""
    configs = Path(folder) / "configs"
    judge = shlex.join(["attnlab", "check", f"attention={name}", f"config_dir={configs}", f"allow_targets={name}"])
    train = shlex.join(
        ["attnlab", "train", "--config-dir", str(configs), f"attention={name}", f"allow_targets=[{name}]"]
    )
    elsewhere = Path(folder).resolve() != Path.cwd()  # Python finds what lies in the current folder
    return [judge, f"PYTHONPATH={shlex.quote(str(Path(folder)))} {train}" if elsewhere else train]
