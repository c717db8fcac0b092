"""Ablations: whether the seeds can tell, from plain numbers or from folders of runs, and the pages of a report."""
