"""What a model thought, gathered while it streams, in the shape in which its provider wants to read it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents.llm import Echo

_Fields = dict[str, Any]

# The fields of a block that come in pieces; all others come whole.
_GROWING = ("thinking", "text", "summary")


class Thoughts:
    """Goes back whole, or signatures do not hold: nothing of it is cleaned or cut here.

    Where there are blocks (Anthropic's `thinking_blocks`, OpenRouter's `reasoning_details`), plain reasoning is the
    same again, and stays here.
    """

    def __init__(self) -> None:
        self._plain: dict[str, list[str]] = {}
        self._blocks: dict[str, _Blocks] = {}
        self._message: _Fields = {}
        self._positions: dict[int, int] = {}
        self._calls: dict[int, _Fields] = {}

    def say(self, name: str, text: str) -> None:
        self._plain.setdefault(name, []).append(text)

    def add_blocks(self, name: str, pieces: Any) -> None:
        for piece in pieces if isinstance(pieces, list) else ():
            if isinstance(piece, dict):
                self._blocks.setdefault(name, _Blocks()).add(piece)

    def sign(self, **fields: Any) -> None:
        self._message |= fields

    def sign_call(self, index: int, **fields: Any) -> None:
        """Of every piece of every call, with or without fields: what goes back is told by the order of the calls."""
        position = self._positions.setdefault(index, len(self._positions))
        if fields:
            self._calls.setdefault(position, {}).update(fields)

    def echo(self) -> Echo:
        blocks = {name: blocks.whole() for name, blocks in self._blocks.items()}
        plain = {name: "".join(pieces) for name, pieces in self._plain.items()}
        return Echo({**(blocks or plain), **self._message}, self._calls)


class _Blocks:
    """A block goes on until it is signed, or the next one says that it is another."""

    def __init__(self) -> None:
        self._blocks: list[tuple[_Fields, dict[str, list[str]]]] = []

    def add(self, piece: Mapping[str, Any]) -> None:
        growing = {name: piece[name] for name in _GROWING if isinstance(piece.get(name), str)}
        fields = {name: value for name, value in piece.items() if name not in growing and value is not None}
        if not self._blocks or _is_another(fields, self._blocks[-1][0]):
            self._blocks.append(({}, {}))
        whole, texts = self._blocks[-1]
        whole.update(fields)
        for name, text in growing.items():
            texts.setdefault(name, []).append(text)

    def whole(self) -> list[_Fields]:
        return [
            {**fields, **{name: "".join(pieces) for name, pieces in texts.items()}} for fields, texts in self._blocks
        ]


def _is_another(fields: _Fields, last: _Fields) -> bool:
    if "signature" in last or "data" in fields:  # what is encrypted comes whole
        return True
    return any(fields.get(name) != last.get(name) for name in ("type", "index"))
