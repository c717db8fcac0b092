"""Ablations, from the folders that runs leave behind: what differs, by how much, and whether the seeds can tell."""
