"""The engine generates text and holds adapters. It knows messages and tokens, not the product.

Importing this package is cheap; torch and transformers come with `bot.engine.local`. It sets three
environment variables, which OpenMP reads only once, when torch is imported: torch's threads then
spin briefly before they sleep. By default they hardly spin where more threads than cores compute,
as the engine's do, and waking them took longer than most of their tasks: a token took twice as long
(docs/experiments.md, 2026-11-20 and 2026-11-22).
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "active")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # about a tenth of a millisecond
os.environ.setdefault("KMP_BLOCKTIME", "1")  # a millisecond, for LLVM's or Intel's OpenMP
