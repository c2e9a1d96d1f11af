"""The store: SQL rows, the Chroma index over them, and the settings."""
