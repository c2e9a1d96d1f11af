"""Training examples: which of them a run learns from, and how much each rater counts."""
