"""What to try Ratchet with."""
