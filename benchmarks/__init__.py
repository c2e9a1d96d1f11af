"""Benchmarks of Ratchet: each module prints a table and writes JSON."""

import bot.engine  # noqa: F401  # before torch: sets how its threads wait, in peers too
