"""One reader a file type; `store.documents.parser` chooses among them and is the only way in."""
