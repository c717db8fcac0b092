"""What layers hand to later layers."""

from typing import Any, NamedTuple, TypeVar

from jaxtyping import Float, Int
from torch import Tensor

from attnlab.attention.documents import Documents
from attnlab.errors import UsageError

Record = TypeVar("Record")


class FirstValues(NamedTuple):
    """The values of the first layer."""

    v: Float[Tensor, "b g s v"]


class Shared:
    """What layers hand to later layers during one pass: one for each forward, map or decode step.

    A layer publishes a record of a class of its own, such as a NamedTuple of tensors, and a later one reads the record
    of that class: `shared.publish(FirstValues(heads.v))`, `shared.read(FirstValues).v`. A layer that reads says so in
    `traits.requires`. `documents` are those that the rows are packed with, None where each row is one; `ids` are the
    numbers of the tokens, None for a layer that is run by itself.
    """

    def __init__(self, documents: Documents | None = None, ids: Int[Tensor, "b t"] | None = None) -> None:
        self.documents, self.ids = documents, ids
        self.records: dict[type, Any] = {}
        self.parts: dict[int, Shared] = {}

    def publish(self, record: Any) -> None:
        """Hand a record to later layers, in the place of an earlier one of its class."""
        self.records[type(record)] = record

    def get(self, kind: type[Record]) -> Record | None:
        """The last record of this class; None if no earlier layer published one."""
        return self.records.get(kind)

    def read(self, kind: type[Record]) -> Record:
        """The last record of this class; a UsageError if no earlier layer published one."""
        if (record := self.get(kind)) is None:
            names = ", ".join(sorted(each.__name__ for each in self.records)) or "nothing"
            raise UsageError(f"a layer reads {kind.__name__}, which no earlier layer published (published: {names})")
        return record

    def part(self, i: int) -> "Shared":
        """Of one of several attentions side by side, which must not read what its neighbours publish."""
        part = self.parts.setdefault(i, type(self)())
        part.documents, part.ids = self.documents, self.ids
        return part

    def copy(self) -> "Shared":
        """The same records, to which others can be published that the original does not see."""
        copy = Shared(self.documents, self.ids)
        copy.records, copy.parts = self.records.copy(), {i: part.copy() for i, part in self.parts.items()}
        return copy
