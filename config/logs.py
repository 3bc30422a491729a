"""Which log lines of others are left out."""

import logging
import sys

from runs.errors import BrokenOff


class WithoutBrokenOff(logging.Filter):
    """To whoever passes a stream on, one that is broken off is an application that crashed. Here it is what a reader is
    told when it has to come back, and `runs.stream` has logged it."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not isinstance(sys.exc_info()[1], BrokenOff)
