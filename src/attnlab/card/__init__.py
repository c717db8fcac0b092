"""The capability card: what a variant can do, on a fixed battery of small tasks and a text."""
