"""Documents: a file's bytes to sections, chunks and rows, within limits of memory and time."""
