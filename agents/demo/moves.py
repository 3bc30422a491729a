"""The closed set of things the demo model can do on one connection, in the order a script yields them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Headers:
    """Send the response headers, for which the client waits until then, and the chunk that names the role."""

    role: bool = True


@dataclass(frozen=True, slots=True)
class Say:
    """One delta of text, paced by `rate`."""

    text: str


@dataclass(frozen=True, slots=True)
class Think:
    """One delta of reasoning, paced by `rate`."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call the model asks for; `arguments` is the raw text, which need not be JSON."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class CallTools:
    """All calls of one step; every argument fragment is paced by `rate`."""

    calls: tuple[ToolCall, ...]


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes for the wire that say nothing: comments, the beginning of a frame."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Spoil:
    """Bytes for the wire that no client may take for a part of the answer: a broken frame, an error frame."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Wait:
    """Silence; infinite seconds until the client goes away."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Finish:
    """The proper end: last chunk, usage if it was asked for, [DONE]."""

    reason: str
    usage: bool = True


@dataclass(frozen=True, slots=True)
class Broken:
    """The body ends cleanly on the HTTP level, without last chunk, usage and [DONE]."""


@dataclass(frozen=True, slots=True)
class Reset:
    """The connection ends in a TCP reset."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection ends in the middle of the chunked body."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """An error status instead of an answer; only ever the first move."""

    status: int
    message: str
    kind: str
    code: str | None
    retry_after: str | None = None


Move = Headers | Say | Think | CallTools | Raw | Spoil | Wait | Finish | Broken | Reset | Cut | Refuse
