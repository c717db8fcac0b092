"""From what was typed to a checked config: composing, keys, messages, and the code that a config leads to. No torch."""
