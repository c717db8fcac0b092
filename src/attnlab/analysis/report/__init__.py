"""A report as pages, pictures and tables."""
