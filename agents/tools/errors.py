"""What can go wrong with a tool call; each text is for the model, which may then try something else."""

import re

from agents.tools.output import clean_text

MESSAGE_LIMIT = 500
TEXT_LIMIT = 2000
# Exception messages like to quote URLs and headers. This catches the usual shapes; a tool that handles
# secrets must not put them into its messages in the first place.
SECRET = re.compile(
    r"""(\b(?:bearer|basic)\s+
       |\b[\w-]*(?:api[_-]?key|token|password|passwd|secret)["']?\s*[=:]\s*["']?
       |://[^\s/:@]*:(?=[^\s/@]+@)
       |\bsk-)
       [^\s"'&,;@]+""",
    re.IGNORECASE | re.VERBOSE,
)


class ToolError(Exception):
    """A call has no result; `str()` of it says why, to the model."""

    def __init__(self, text: str) -> None:
        super().__init__(clean_text(text[:TEXT_LIMIT]))


class ToolInputError(ToolError):
    """The arguments do not fit the tool."""


class ToolTimeout(ToolError):
    """The tool took longer than it may; whether it had its effect is unknown."""


class ToolFailed(ToolError):
    """The tool broke, or its result cannot be kept."""


def failure(error: BaseException) -> ToolFailed:
    """No stack and no secrets: the exception's class and a shortened message."""
    message = SECRET.sub(r"\1***", clean_text(_message(error)[: MESSAGE_LIMIT * 4]))[:MESSAGE_LIMIT]
    name = type(error).__name__
    return ToolFailed(f"{name}: {message}" if message else name)


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # an exception class may break while it describes itself
        return ""
