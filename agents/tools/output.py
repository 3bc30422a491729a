"""What a tool returns, made storable: plain JSON of bounded size that Postgres and every client accept."""

import json
import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic_core import to_jsonable_python

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

MAX_BYTES = 256 * 1024
MAX_DEPTH = 50
TRUNCATED = "[truncated]"
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Postgres takes no NUL in JSON, and UTF-8 has no lone surrogates.
UNSTORABLE = re.compile("[\0\ud800-\udfff]")
INT64 = 2**63


class UnstorableError(ValueError):
    """The value has no JSON form."""


def storable(value: object) -> Json:
    """Raises UnstorableError. Whole when it serialises to at most 256 KiB, else a text that says it was cut."""
    plain = _Plain().of(value)
    serialised = _serialise(plain)
    if len(serialised) <= MAX_BYTES:
        return plain
    return _cut(plain if isinstance(plain, str) else serialised.decode())


def clean_text(text: str) -> str:
    return UNSTORABLE.sub(REPLACEMENT, text)


class _Plain:
    """One walk over a value, depth first, that stops when enough was seen to fill the limit."""

    def __init__(self) -> None:
        # Every value takes two bytes at least, its comma included; what comes later is cut off anyway.
        self._left = MAX_BYTES // 2 + 1

    def of(self, value: object, depth: int = 0) -> Json:
        if depth > MAX_DEPTH:
            raise UnstorableError(f"it is nested deeper than {MAX_DEPTH} levels")
        self._left -= 1
        match value:
            case None | bool():
                return value
            case str():
                return self._text(value)
            case int():
                # Readers in JavaScript and orjson know 64 bits only.
                return int(value) if -INT64 <= value < INT64 else self._text(_digits(value))
            case float():
                return float(value) if math.isfinite(value) else None
            case Mapping():
                return self._object(value.items(), depth)
            case list() | tuple() | set() | frozenset():
                return self._array(value, depth)
            case Iterator():
                raise UnstorableError("an iterator may never end")
        return self.of(_known_type(value), depth + 1)

    def _text(self, text: str) -> str:
        kept = clean_text(text[: MAX_BYTES + 1])
        self._left -= len(kept) // 2
        return kept

    def _array(self, items: Iterable[object], depth: int) -> Json:
        array: list[Json] = []
        for item in items:
            if self._left <= 0:
                break
            array.append(self.of(item, depth + 1))
        return array

    def _object(self, items: Iterable[tuple[object, object]], depth: int) -> Json:
        plain: dict[str, Json] = {}
        for key, item in items:
            if self._left <= 0:
                break
            plain[self._text(str(key))] = self.of(item, depth + 1)
        return plain


def _known_type(value: object) -> Any:
    """Dates, UUIDs, decimals, enums, dataclasses, pydantic models and the like, as pydantic writes them."""
    try:
        return to_jsonable_python(value, inf_nan_mode="null")
    except Exception as error:  # pydantic's, or whatever the value raises while it is looked at
        raise UnstorableError(f"{type(value).__name__} has no JSON form") from error


def _digits(number: int) -> str:
    try:
        return str(number)
    except ValueError:  # Python refuses to write more than 4300 digits
        return hex(number)


def _serialise(plain: Json) -> bytes:
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode()


def _cut(text: str) -> str:
    """As much of the text as fits, with the mark, into 256 KiB when written as a JSON string."""
    beginning = text.encode()[:MAX_BYTES]

    def cut(room: int) -> str:
        return beginning[:room].decode(errors="ignore") + TRUNCATED

    # Escapes make the written length unpredictable, but it grows with the text.
    too_much = bisect_right(range(MAX_BYTES), MAX_BYTES, key=lambda room: len(_serialise(cut(room))))
    return cut(too_much - 1)
