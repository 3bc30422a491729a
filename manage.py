#!/usr/bin/env python
"""Django's commands, with PostgreSQL and Redis at hand for those that need them."""

import atexit
import os
import signal
import sys

# They read code and settings only.
SERVERLESS = {
    "check",
    "collectstatic",
    "compilemessages",
    "diffsettings",
    "findstatic",
    "help",
    "makemessages",
    "makemigrations",
    "spectacular",
    "startapp",
    "version",
}


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    try:
        if _needs_servers(sys.argv[1:]):
            _start_servers()
        from django.core.management import execute_from_command_line

        execute_from_command_line(sys.argv)
    except KeyboardInterrupt:
        # Imports included, which take seconds: Ctrl-C is no news to whoever pressed it.
        sys.exit(128 + signal.SIGINT)


def _needs_servers(arguments: list[str]) -> bool:
    asks = {"-h", "--help", "--version"}
    command = next((argument for argument in arguments if not argument.startswith("-")), "help")
    return command not in SERVERLESS and not asks.intersection(arguments)


def _start_servers() -> None:
    from config import services

    # A plain SIGTERM would skip what is to be done at exit.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        atexit.register(services.stop, services.ensure())
    except services.ServicesError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
