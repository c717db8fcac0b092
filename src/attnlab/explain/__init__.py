"""The worked example: what one attention layer does to a few tokens, step by step, by the code that trains."""
