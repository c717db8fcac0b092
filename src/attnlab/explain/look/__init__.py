"""A page on which a text is typed and a trained model reads it."""
