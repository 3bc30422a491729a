"""What a message is made of: AI SDK UI message parts, as far as the chat itself looks into them."""

import re
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

Part = dict[str, Any]

_TEXT_URL = "data:text/plain;charset=utf-8;base64,"


def text_of(parts: Iterable[Part]) -> str:
    return "".join(part["text"] for part in parts if part["type"] == "text")


@dataclass(frozen=True, slots=True)
class TextFile:
    """A text file that came with a message."""

    name: str
    text: str


def file_part(file: TextFile) -> Part:
    """A file as AI SDK clients themselves attach one (`FileUIPart`): they show it by name without knowing us, and one
    that they send has this shape already. A `data-` part would be seen by our own page only."""
    url = _TEXT_URL + b64encode(file.text.encode()).decode()
    return {"type": "file", "mediaType": "text/plain", "filename": file.name, "url": url}


def file_of(part: Part) -> TextFile:
    """The other way round."""
    return TextFile(part["filename"], text_of_data(part["url"]))


def text_of_data(url: str) -> str:
    """What a `data:` URL (RFC 2397) holds, whatever type it names. Raises ValueError where that is no UTF-8 text."""
    kind, comma, data = url.partition(",")
    if not comma or not re.match("data:", kind, re.IGNORECASE):
        raise ValueError("no data: URL")
    raw = b64decode(data, validate=True) if kind.lower().endswith(";base64") else unquote_to_bytes(data)
    return raw.decode()
