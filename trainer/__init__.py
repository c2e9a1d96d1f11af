"""Learns: turns what people rated into a better adapter, and proves it."""
