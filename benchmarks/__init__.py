"""What Ratchet can do, in numbers: each module prints a table and writes JSON."""
