"""Store keeps: SQL rows, the Chroma index over them, and the settings they are read with."""
