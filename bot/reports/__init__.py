"""Reports on the bot's state: for people, for admins and for monitoring."""
