"""What is answered to a person who asks too often, or has too much open."""

from collections.abc import AsyncIterator
from typing import Any

from django.conf import settings

from chat.api.errors import ApiError
from runs.api import open_streams
from runs.api.rates import seconds_to_wait

# When one of many runs or streams will end is anybody's guess.
RETRY_SECONDS = 5
# The codes that every door which streams may answer.
REFUSES_A_STREAM = ("RATE_LIMITED", "TOO_MANY_STREAMS")


def to_start(user: Any) -> None:
    """A run. Raises ApiError."""
    _expect_patience(seconds_to_wait("starts", settings.LIMIT_STARTS_PER_MINUTE, user.pk))


def to_stop_early(user: Any) -> None:
    """A run that nobody knows. As many of them as there may be runs, for each is written down. Raises ApiError."""
    _expect_patience(seconds_to_wait("early stops", settings.LIMIT_STARTS_PER_MINUTE, user.pk))


def too_many_active_runs() -> ApiError:
    detail = f"You have {settings.LIMIT_ACTIVE_RUNS} runs at work, which is the most."
    return ApiError(429, "TOO_MANY_ACTIVE_RUNS", detail, retry_after=RETRY_SECONDS)


def to_stream(user: Any, pieces: AsyncIterator[bytes]) -> open_streams.CountedStream:
    """The pieces, counted as an open stream; whatever of them has a `close` is closed with it. Raises ApiError, and
    closes nothing then."""
    return place_of_stream(user).carrying(pieces)


def place_of_stream(user: Any) -> open_streams.CountedStream:
    """For a stream that is to come; to be closed if it does not. Raises ApiError."""
    _expect_patience(seconds_to_wait("streams", settings.LIMIT_STREAMS_PER_MINUTE, user.pk))
    stream = open_streams.counted(user.pk)
    if stream is None:
        detail = f"You have {settings.LIMIT_STREAMS} streams open, which is the most."
        raise ApiError(429, "TOO_MANY_STREAMS", detail, retry_after=RETRY_SECONDS)
    return stream


def _expect_patience(seconds: int) -> None:
    if seconds:
        raise ApiError(429, "RATE_LIMITED", f"Too often. Try again in {seconds} s.", retry_after=seconds)
