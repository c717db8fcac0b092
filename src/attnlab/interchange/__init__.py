"""Models in the formats of others: read, written, and what their layouts and ours have in common."""
