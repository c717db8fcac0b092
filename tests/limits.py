"""How long a test waits for what must come. No busy machine gets there: only what hangs does."""

HANG = 1800.0  # seconds
