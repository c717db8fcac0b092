"""What layers hand to later layers."""

from typing import Any

from attnlab.errors import UsageError


class Shared(dict[str, Any]):
    """What layers hand to later layers during one pass: one record per forward, map or decode step.

    A layer publishes with `shared["name"] = value`; a later one reads with `shared.read("name")`.
    """

    def read(self, name: str) -> Any:
        if name not in self:
            raise UsageError(f"a layer reads {name!r} but no earlier layer published it (published: {sorted(self)})")
        return self[name]

    def part(self, i: int) -> "Shared":
        """The record of one of several attentions side by side, which must not read what its neighbours publish."""
        part: Shared = self.setdefault(f"place {i}", Shared())
        return part
