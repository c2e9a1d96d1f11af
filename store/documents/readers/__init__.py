"""Readers, one for each file type; only `store.documents.parser` calls them."""
