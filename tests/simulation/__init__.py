"""Whole bots under a simulated clock and a seeded scheduler: `python -m tests.simulation`."""
