"""The contract between the loop and a model: a request in, deltas out, and every provider error as one of ours.

The clients that keep it are in `agents.clients`; this module imports nothing that costs, so everybody may.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

ProviderMessage = dict[str, Any]

CONNECT_SECONDS = 5.0

# A provider that names a later time is believed to mean "not today".
LONGEST_RETRY_AFTER = 3600.0


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What a model is asked for besides an answer; None is left to its provider. The names are those of the wire."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    reasoning_effort: str | None = None
    seed: int | None = None

    @property
    def given(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One model call. `messages` and `tools` are in the OpenAI chat-completions shape; `stall` is in seconds."""

    model: str
    messages: Sequence[ProviderMessage]
    tools: Sequence[dict[str, Any]] = ()
    api_base: str | None = None
    stall: float = 120.0
    settings: ModelSettings = ModelSettings()


@dataclass(frozen=True, slots=True)
class Usage:
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    estimated: bool = False

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            self.cost_usd + other.cost_usd,
            self.estimated or other.estimated,
        )


@dataclass(frozen=True, slots=True)
class Said:
    """A piece of text (`kind` text) or of thinking (`kind` reasoning)."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A piece of a tool call; pieces of one call share `index`. `name` comes whole, with the first one."""

    index: int
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Echo:
    """What a provider wants to read again with the answer it came with, while the turn goes on: its reasoning, often
    signed. `message` are fields of the assistant message, `calls` fields of its tool calls, by their position."""

    message: Mapping[str, Any] = field(default_factory=dict)
    calls: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finished:
    """The provider's own end: always the last delta, and never made up."""

    reason: str
    usage: Usage
    model: str
    echo: Echo = Echo()


Delta = Said | CallPiece | Finished


class ModelClient(Protocol):
    def __call__(self, request: ModelRequest, /) -> AsyncGenerator[Delta, None]:
        """Yields deltas, `Finished` last. Raises ModelError. Closing it, or a cancel, closes the provider's socket."""
        ...


class ModelError(Exception):
    """A model call that failed. `code` is for programs, the text for people, and neither holds what the provider said:
    providers echo keys and headers. `transient` says whether the same call may succeed later."""

    def __init__(self, code: str, text: str, *, transient: bool = False, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.transient = transient
        self.retry_after = retry_after

    @property
    def is_unavailable(self) -> bool:
        """Whether another model may well answer what this one did not: it is the model, not what it was asked."""
        return self.transient or self.code in ("authentication", "permission", "not_found")


# What each code says to people, and whether the same call may succeed later.
_ERRORS: Mapping[str, tuple[str, bool]] = {
    "authentication": ("The model's provider refused our credentials.", False),
    "permission": ("The model's provider does not allow us to use this model.", False),
    "not_found": ("The model's provider does not know this model.", False),
    "bad_request": ("The model's provider refused the request.", False),
    "context_overflow": ("The conversation is too long for this model.", False),
    "content_filter": ("The model's provider refused this content.", False),
    "rate_limit": ("The model's provider is limiting our rate.", True),
    "overloaded": ("The model's provider is overloaded.", True),
    "timeout": ("The model's provider did not answer in time.", True),
    "connection": ("The connection to the model's provider failed.", True),
    "provider_error": ("The model's provider answered with an error.", True),
    "stream_truncated": ("The model's answer broke off before its end.", True),
}


def provider_error(code: str, retry_after: float | None = None) -> ModelError:
    """One of the errors that every client knows; `retry_after` in seconds."""
    text, transient = _ERRORS[code]
    return ModelError(code, text, transient=transient, retry_after=retry_after)


def retry_after(headers: Mapping[str, str] | None) -> float | None:
    """Seconds to wait, from the header of RFC 9110 10.2.3, which is a number or a date. None where it says nothing
    sensible."""
    said = (headers or {}).get("retry-after", "")
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds) if seconds < LONGEST_RETRY_AFTER else None


@dataclass(slots=True)
class TextCleaner:
    """Makes text storable: NUL and lone surrogates become U+FFFD. A pair split between two deltas is put together."""

    _high: str = field(default="")

    def clean(self, text: str) -> str:
        if text.isascii() and not self._high:
            return text.replace("\0", "\ufffd")
        text = self._high + text
        self._high = ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._high = text[:-1], text[-1]
        # A pair of surrogates is one character once it went through UTF-16.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd")

    def rest(self) -> str:
        rest, self._high = "\ufffd" if self._high else "", ""
        return rest
