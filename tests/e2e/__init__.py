"""The whole program as its users have it: processes, a real model, a loopback Telegram."""
