"""Ablations: their designs as data, the list of planned runs, and, from files on disk, whether the seeds can tell."""
