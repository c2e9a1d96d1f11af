"""Forward passes of the model in training: generation, scoring and their speed-ups."""
