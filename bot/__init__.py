"""Bot talks: answers messages in Telegram or a terminal, and records what people say of it."""
