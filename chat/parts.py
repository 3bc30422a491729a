"""What a message is made of: AI SDK UI message parts, as far as the chat itself looks into them."""

from collections.abc import Iterable
from typing import Any

Part = dict[str, Any]


def text_of(parts: Iterable[Part]) -> str:
    return "".join(part["text"] for part in parts if part["type"] == "text")
