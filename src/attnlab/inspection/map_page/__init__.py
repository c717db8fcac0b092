"""Maps of a text as one HTML file that needs nothing else."""
