"""The flow of attention as one figure: what each number was made of, and the line of source that made it."""
