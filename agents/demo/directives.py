"""What a user message asks of the demo model: exact `name:value` directives for tests, plain words for people."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

PEOPLE_RATE = 25.0
SLOW_RATE = 4.0
PLACES = {
    "berlin": "Europe/Berlin",
    "london": "Europe/London",
    "new york": "America/New_York",
    "paris": "Europe/Paris",
    "sydney": "Australia/Sydney",
    "tokyo": "Asia/Tokyo",
}


class DirectiveError(ValueError):
    """A directive whose value cannot be read: a mistake in a test, told to its author as a 400."""


@dataclass(frozen=True, slots=True)
class WantedCall:
    """A tool to be called; without arguments it gets the ones the demo model knows for it."""

    name: str
    arguments: str | None = None


@dataclass(frozen=True, slots=True)
class Directives:
    """One message's wishes; every field is the directive of that name, unless said otherwise."""

    script: str = "text"
    tokens: int = 20
    rate: float = 0.0
    size: int = 0
    key: str = ""
    after: int = 3
    every: float = 1.0
    delay: float = 0.0
    say: int = 0
    status: int = 500
    retry_after: str = ""
    times: int = 0
    steps: int = 0
    about: str = ""
    wanted: tuple[tuple[WantedCall, ...], ...] = ()  # `call`, `calls` and `then`: one tuple per step


def _count(value: str) -> int:
    if (number := int(value)) < 0:
        raise ValueError
    return number


def _amount(value: str) -> float:
    if not math.isfinite(number := float(value)) or number < 0:
        raise ValueError
    return number


READERS: dict[str, Callable[[str], object]] = {
    "script": str,
    "tokens": _count,
    "rate": _amount,
    "size": _count,
    "key": str,
    "after": _count,
    "every": _amount,
    "delay": _amount,
    "say": _count,
    "status": _count,
    "retry_after": str,
    "times": _count,
    "steps": _count,
    "about": str,
}
# These only tune or label an answer; any other directive replaces the plain words.
TUNING = {"key", "rate", "delay"}
NAME = re.compile(rf"(?<!\S)({'|'.join(READERS)}|call|calls|then):")
VALUE = re.compile(r"\S*")
TOOL_NAME = re.compile(r"[\w.-]+")


def read_directives(text: str) -> Directives:
    """Raises DirectiveError."""
    found, wanted = _directives(text)
    if not found.keys() - TUNING and not wanted:
        return replace(_plain_words(text), **found)
    if "status" in found:
        found.setdefault("script", "status")
    elif wanted or found.get("steps"):
        found.setdefault("script", "tools")
    return replace(Directives(wanted=wanted), **found)


def _directives(text: str) -> tuple[dict[str, Any], tuple[tuple[WantedCall, ...], ...]]:
    found: dict[str, Any] = {}
    steps: list[list[WantedCall]] = [[]]
    position = 0
    while match := NAME.search(text, position):
        name, position = match[1], match.end()
        if name == "then":
            steps.append([])
        elif name == "call":
            call, position = _wanted_call(text, position)
            steps[-1].append(call)
        else:
            value = VALUE.match(text, position)[0]  # type: ignore[index]  # it matches the empty string
            position += len(value)
            if name == "calls":
                steps[-1].extend(WantedCall(tool) for tool in value.split(",") if tool)
            elif value:  # "script: hello" is prose
                found[name] = _read(name, value)
    return found, tuple(tuple(step) for step in steps if step)


def _read(name: str, value: str) -> object:
    try:
        return READERS[name](value)
    except ValueError:
        raise DirectiveError(f"The directive {name}:{value} cannot be read.") from None


def _wanted_call(text: str, position: int) -> tuple[WantedCall, int]:
    """`call:name={"json": "object"}`; the object may contain spaces."""
    if not (name := TOOL_NAME.match(text, position)):
        raise DirectiveError("The directive call: names no tool.")
    if text[name.end() : name.end() + 1] != "=":
        return WantedCall(name[0]), name.end()
    start = name.end() + 1
    try:
        _, end = json.JSONDecoder().raw_decode(text, start)
    except ValueError:
        raise DirectiveError(f"The arguments of call:{name[0]} are not JSON.") from None
    return WantedCall(name[0], text[start:end]), end


def _plain_words(text: str) -> Directives:
    people = Directives(script="hello", rate=PEOPLE_RATE)
    words = set(re.findall(r"[a-z]+", text.lower()))
    if "summarise" in words:
        return Directives(script="summary")  # nobody reads it as it comes
    if asked := re.search(r"\bcalculate\b[\s:]*([\d(.+-][\d\s+\-*/%().]*)?", text, re.IGNORECASE):
        expression = (asked[1] or "6*7").strip().rstrip(".")
        return replace(people, script="ask", wanted=_one("calculate", expression=expression))
    if asked := re.search(r"\btime in ([a-z][a-z/_ +-]*)", text, re.IGNORECASE):
        return replace(people, script="ask", wanted=_one("current_time", zone=_zone(asked[1])))
    for word, wish in (
        ("fail", replace(people, script="status", status=500)),
        ("hang", replace(people, script="hang")),
        ("tool", replace(people, script="ask", wanted=((WantedCall("current_time"),),))),
        ("markdown", replace(people, script="markdown")),
        ("table", replace(people, script="markdown")),
        ("think", replace(people, script="think")),
        ("slow", replace(people, script="slow", rate=SLOW_RATE)),
        ("title", replace(people, script="title")),
    ):
        if word in words:
            return wish
    if re.search(r"\bgo on\b", text, re.IGNORECASE):
        return replace(people, script="go_on", rate=SLOW_RATE)
    return people


def _zone(place: str) -> str:
    known = (zone for name, zone in PLACES.items() if place.lower().startswith(name))
    return next(known, place.split(maxsplit=1)[0])


def _one(tool: str, **arguments: str) -> tuple[tuple[WantedCall, ...], ...]:
    return ((WantedCall(tool, json.dumps(arguments)),),)
