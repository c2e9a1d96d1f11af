"""Things to try Ratchet with."""
