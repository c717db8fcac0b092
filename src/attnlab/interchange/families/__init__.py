"""The architectures of others that are ours under other names: one file per family, read both ways."""
