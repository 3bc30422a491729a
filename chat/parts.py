"""What a message is made of: AI SDK UI message parts, as far as the chat itself looks into them."""

from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

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
    return TextFile(part["filename"], b64decode(part["url"].partition(",")[2]).decode())
