"""The parts of a worked example by name."""

from typing import Literal, get_args

Part = Literal["inputs", "projections", "scores", "weights", "dropout", "context", "output", "state"]
LEARNED = "learned"
PARTS = (LEARNED, *get_args(Part))
"""What can be printed: learned numbers, and the steps of each part."""
