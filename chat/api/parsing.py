"""How a body is read: strict JSON, whatever the client would like back."""

import json
import re
from itertools import accumulate
from typing import Any, NoReturn

from rest_framework import exceptions, negotiation, parsers
from rest_framework.request import Request

DEEPEST_JSON = 50
# Objects and lists of one body: each of them costs far more time than the two bytes it takes.
MOST_CONTAINERS = 1_000_000
# Possessive, and a string may lack its end: each byte is looked at once, whatever the body is.
_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_LEVELS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_ALL_ELSE = bytes(set(range(256)) - set(_LEVELS))


class AnyAccept(negotiation.BaseContentNegotiation):
    """Every route has one representation; an EventSource and a browser get it as anybody else does."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        wanted = (request.content_type or "").partition(";")[0].strip().lower()
        return next((parser for parser in parsers if parser.media_type == wanted), None)

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


class JSONParser(parsers.BaseParser):
    """UTF-8 JSON as RFC 8259 has it: no NaN, no duplicate names, nothing nested deeper than anybody needs."""

    media_type = "application/json"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        charset = re.search(r"charset\s*=\s*\"?([^\s;\"]+)", media_type or "", re.IGNORECASE)
        if charset and charset[1].lower() not in ("utf-8", "utf8"):
            raise exceptions.UnsupportedMediaType(media_type or "")
        raw = stream.read()
        brackets = _STRINGS.sub(b"", raw).translate(None, _ALL_ELSE)
        if len(brackets) > 2 * MOST_CONTAINERS:
            raise exceptions.ParseError("too many objects and lists")
        if _depth(brackets) > DEEPEST_JSON:
            raise exceptions.ParseError("nested too deeply")
        try:
            return json.loads(raw.decode(), parse_constant=_refuse, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise exceptions.ParseError(str(error)) from error


class JSONAsTextParser(JSONParser):
    """The same from a page that may not name its type: `text/plain` needs no permission of CORS."""

    media_type = "text/plain"


def _depth(brackets: bytes) -> int:
    return max(accumulate(map(_LEVELS.__getitem__, brackets)), default=0)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name stands twice in one object")
    "".join(result).encode()  # raises for half a surrogate pair: nobody could be told the name
    return result
