"""Data: a corpus split by bytes, a tokenizer, and batches that depend on nothing but (corpus, seed, step)."""
