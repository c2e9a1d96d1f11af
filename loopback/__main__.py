"""Command that serves the loopback Telegram by hand: `python -m loopback --port 8081 --token T`."""

import argparse
import asyncio

from loopback.bot_api import TOKEN, BotApi
from loopback.shell import serve


def main() -> None:
    """Serve by hand until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--port", type=int, default=8081)
    parser.add_argument("--token", default=TOKEN)
    arguments = parser.parse_args()
    asyncio.run(serve(BotApi(arguments.token, port=arguments.port)))


if __name__ == "__main__":
    main()
