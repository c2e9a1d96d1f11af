"""The test suite. Environment variables that it needs are set here, before anything is imported."""

import os
import tempfile

# What a developer has set for a bot of theirs must not reach the tests.
for name in [each for each in os.environ if each.startswith("RATCHET_")]:
    del os.environ[name]
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["PTB_TIMEDELTA"] = "1"
os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.mkdtemp())  # the Postgres package wants one
