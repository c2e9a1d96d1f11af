"""Telegram: one file per conversation that a person has with the bot."""
