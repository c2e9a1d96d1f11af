"""What Ratchet can do, in numbers: each module prints a table and writes JSON."""

import bot.engine  # noqa: F401  # before torch: it tells torch's threads how to wait, peers' too
