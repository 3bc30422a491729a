#!/usr/bin/env python
"""Django's commands, with PostgreSQL and Redis at hand for those that need them."""

import atexit
import os
import signal
import sys

from django.core.management import execute_from_command_line

from config import services

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
    if _needs_servers(sys.argv[1:]):
        _start_servers()
    execute_from_command_line(sys.argv)


def _start_servers() -> None:
    # A plain SIGTERM would skip what is to be done at exit.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        atexit.register(services.stop, services.ensure())
    except services.ServicesError as error:
        sys.exit(f"{error}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _needs_servers(arguments: list[str]) -> bool:
    asks = {"-h", "--help", "--version"}
    command = next((argument for argument in arguments if not argument.startswith("-")), "help")
    return command not in SERVERLESS and not asks.intersection(arguments)


if __name__ == "__main__":
    main()
