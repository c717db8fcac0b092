"""What a variant changes, step by step: the same step of another one beside it."""

from dataclasses import dataclass

import numpy as np

from attnlab.explain.numbers import letter
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

    def recut(self, key: str) -> bool:
        """Whether a step has the same numbers in both, in another number of heads."""
        mine, theirs = self.one.step(key), self.other.step(key)
        if mine is None or theirs is None or {mine.shape, theirs.shape} != {"vectors"}:
            return False
        a, b = (np.concatenate(list(step.values), axis=-1) for step in (mine, theirs))
        return len(mine.values) != len(theirs.values) and a.shape == b.shape and np.allclose(a, b, atol=ROUNDING)

    @property
    def settings(self) -> str:
        """The settings of both layers that differ, in one line: what no number on a few tokens may show."""
        mine, theirs = self.one.settings, self.other.settings
        # A part that is told a setting of its layer is no second difference.
        apart: dict[tuple[str, str, str], str] = {}
        for key in sorted(mine, key=lambda key: key.count(".")):
            if key in theirs and mine[key] != theirs[key]:
                apart.setdefault((key.rpartition(".")[2], mine[key], theirs[key]), key)
        texts = [f"{key} ({here} here, {there} in {self.other.name})" for (_, here, there), key in apart.items()]
        return f"settings that differ: {', '.join(texts) or 'none of those that both have'}"

    @property
    def numbers(self) -> str:
        """What both have learned, in one line: which matrices are the same, and which one of them alone has."""
        mine, theirs = ({letter(name): a for name, a in e.matrices.items()} for e in (self.one, self.other))
        same = [name for name in mine if name in theirs and np.array_equal(mine[name], theirs[name])]
        parts = [("the same in both", same), ("of another shape", [n for n in mine if n in theirs and n not in same])]
        parts += [(f"only in {self.one.name}", [n for n in mine if n not in theirs])]
        parts += [(f"only in {self.other.name}", [n for n in theirs if n not in mine])]
        texts = [f"{', '.join(names)} {where}" for where, names in parts if names]
        return f"learned numbers: {'; '.join(texts) or 'none'}"

    @property
    def summary(self) -> str:
        """All steps in one line: those with the same numbers, those with others, and those that one of both takes."""
        compared = [step for step in self.one.steps if not step.aside]
        same = [step.title for step in compared if self.same(step.key)]
        alone = [step.title for step in compared if self.other.step(step.key) is None]
        recut = [step.title for step in compared if self.recut(step.key)]
        rest = [step.title for step in compared if step.title not in (*same, *recut, *alone)]
        parts = [("the same", same), ("the same numbers in other heads", recut), ("differ", rest)]
        parts += [(f"only in {self.one.name}", alone)]
        parts += [(f"only in {self.other.name}", [step.title for step in self.missing if not step.aside])]
        return "; ".join(f"{where}: {', '.join(titles)}" for where, titles in parts if titles)

    def verdict(self, key: str) -> str:
        """One line about this step: the same, different and by how much, or only here."""
        theirs = self.other.step(key)
        if theirs is None:
            return f"only in {self.one.name}"
        if theirs.part == "dropout":
            return f"drawn by chance, here and in {self.other.name}: not compared"
        gap = self.difference(key)
        if self.recut(key):
            return f"the same numbers as in {self.other.name}, in other heads"
        if gap is None:
            return f"another shape in {self.other.name}"
        if self.same(key):
            return f"the same as in {self.other.name}"
        if gap == float("inf"):
            return f"other pairs may be read than in {self.other.name}"
        return f"differs from {self.other.name} by up to {gap:.4g}"

    @property
    def steps(self) -> list[tuple[Explanation, Step]]:
        """The steps of both in one order, each with whose it is; those that both take are this one's."""
        later, merged = list(self.other.steps), list[tuple[Explanation, Step]]()
        for step in self.one.steps:
            partner = self.partner(step.key)
            at = next((i for i, each in enumerate(later) if each is partner), -1)
            merged += [(self.other, each) for each in later[: max(at, 0)] if self.one.step(each.key) is None]
            merged.append((self.one, step))
            later = later[at + 1 :]
        return [*merged, *((self.other, each) for each in later if self.one.step(each.key) is None)]

    @property
    def missing(self) -> list[Step]:
        """The other one's steps that this one goes without."""
        return [step for step in self.other.steps if self.one.step(step.key) is None]
