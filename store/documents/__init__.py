"""Documents: files, read into sections, chunks and rows within limits of memory and time."""
