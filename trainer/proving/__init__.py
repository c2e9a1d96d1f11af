"""Proving: whether a candidate is better than the active version and the base model."""
