"""The sweep by hand, or from cron where beat or Redis is down."""

from argparse import ArgumentTypeError
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from runs import sweep


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError as error:
        raise ArgumentTypeError("a number of seconds") from error
    if not 0 < seconds < 1e9:
        raise ArgumentTypeError("a number of seconds above 0")
    return seconds


class Command(BaseCommand):
    help = "Runs whose worker died go on elsewhere or are ended; lost messages are sent again."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--stale-seconds", type=_seconds, default=settings.RUN_STALE_SECONDS, metavar="N")
        parser.add_argument(
            "--all", action="store_true", help="ignore the window: no worker of this installation is alive"
        )
        parser.add_argument("--dry-run", action="store_true", help="only say what would be done")

    def handle(self, *, stale_seconds: float, dry_run: bool, **options: Any) -> None:
        window = sweep.NO_WINDOW if options["all"] else stale_seconds
        if dry_run:
            for run in sweep.candidates(window):
                self.stdout.write(f"{run.pk}  {run.status}  attempt {run.attempt}  {run.worker or '-'}")
            return
        swept = sweep.sweep(window_seconds=window)
        self.stdout.write(
            f"rescued {len(swept.rescued)}, ended {len(swept.ended)}, sent again {len(swept.sent)}, "
            f"without owner {len(swept.orphaned)}"
        )
