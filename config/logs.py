"""Which log lines of others are left out."""

import logging

from runs.errors import BrokenOff


class WithoutBrokenOff(logging.Filter):
    """To uvicorn a stream that was broken off is an application that crashed; here it is what a page is told when it
    has to come back, and `runs.stream` has logged it."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], BrokenOff))
