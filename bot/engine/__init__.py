"""The engine generates text and holds adapters. It knows messages and tokens, not the product.

Importing this package is cheap; torch and transformers come with `bot.engine.local`. Before they
do, torch's threads are told to look for work a little longer before they sleep. By themselves they
hardly look where more threads than cores compute, as the engine's does beside others, and to wake
them takes longer than most of their tasks: a token took twice as long (docs/experiments.md).
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "active")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # a tenth of a millisecond
os.environ.setdefault("KMP_BLOCKTIME", "1")  # a millisecond, where OpenMP is LLVM's or Intel's
