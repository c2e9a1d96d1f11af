"""One reader a file type; `store.parser` chooses among them and is the only way in."""
