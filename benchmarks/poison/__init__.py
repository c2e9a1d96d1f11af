"""Influence of malicious raters: `python -m benchmarks.poison`."""
