"""What a variant changes, step by step: the same step of another one beside it."""

from dataclasses import dataclass

import numpy as np

from attnlab.explain.steps import Explanation, Step

ROUNDING = 1e-6  # of the largest number: the same sums, which another kernel may order in another way


@dataclass(frozen=True)
class Pairing:
    """A worked example and the one it is compared with."""

    one: Explanation
    other: Explanation

    def partner(self, key: str) -> Step | None:
        """The other one's step of this key."""
        return self.other.step(key)

    def difference(self, key: str) -> float | None:
        """The largest difference of a step that both have in the same shape; None if they have not."""
        mine, theirs = self.one.step(key), self.other.step(key)
        if mine is None or theirs is None or mine.values.shape != theirs.values.shape:
            return None
        a, b = (np.where(s.hidden, np.nan, s.values) if s.hidden is not None else s.values for s in (mine, theirs))
        if not np.array_equal(np.isnan(a), np.isnan(b)):
            return float("inf")
        gap = np.abs(a - b)
        return float(np.nanmax(gap)) if gap.size and not np.isnan(gap).all() else 0.0

    def same(self, key: str) -> bool:
        """Whether both have this step and its numbers differ by no more than rounding does, however small they are."""
        gap, mine, theirs = self.difference(key), self.one.step(key), self.other.step(key)
        if gap is None or mine is None or theirs is None:
            return False
        return gap <= ROUNDING * max(float(np.nan_to_num(np.abs(s.values), posinf=0.0).max()) for s in (mine, theirs))

    @property
    def settings(self) -> str:
        """The settings of both layers that differ, in one line: what no number on a few tokens may show."""
        mine, theirs = self.one.settings, self.other.settings
        apart = [
            f"{key} ({mine[key]} here, {theirs[key]} in {self.other.name})"
            for key in mine
            if key in theirs and mine[key] != theirs[key]
        ]
        return f"settings that differ: {', '.join(apart) or 'none of those that both have'}"

    def verdict(self, key: str) -> str:
        """One line about this step: the same, different and by how much, or only here."""
        if self.other.step(key) is None:
            return f"only in {self.one.name}"
        gap = self.difference(key)
        if gap is None:
            return f"another shape in {self.other.name}"
        if self.same(key):
            return f"the same as in {self.other.name}"
        if gap == float("inf"):
            return f"other pairs may be read than in {self.other.name}"
        return f"differs from {self.other.name} by up to {gap:.4g}"

    @property
    def missing(self) -> list[Step]:
        """The other one's steps that this one goes without."""
        return [step for step in self.other.steps if self.one.step(step.key) is None]
