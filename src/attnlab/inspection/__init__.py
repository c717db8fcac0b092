"""Looking at what a model attends to: maps, pictures, numbers per head, and records that TensorBoard keeps."""
