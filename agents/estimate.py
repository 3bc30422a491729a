"""What a model call used where nobody said: an estimate from its length, marked as one."""

from collections.abc import Sequence
from typing import Any

import orjson

from agents.llm import ProviderMessage, Usage

# Of English text as of JSON; other scripts take more bytes for a letter, and more tokens.
BYTES_PER_TOKEN = 4


def estimated_usage(model: str, asked: Sequence[ProviderMessage], said: Sequence[dict[str, Any]]) -> Usage:
    """`said` is what came of the answer, as message parts."""
    # Here, because the clients bring what web processes, which estimate nothing, need not carry.
    from agents.clients.prices import cost_usd

    counts = _tokens(asked), _tokens([_content(part) for part in said])
    return Usage(*counts, cost_usd=cost_usd(model, *counts), estimated=True)


def _content(part: dict[str, Any]) -> Any:
    """What the model wrote of a part: not its type, nor what a tool answered."""
    return part.get("text", part.get("input", ""))


def _tokens(written: Sequence[Any]) -> int:
    return -(-sum(len(orjson.dumps(item)) for item in written) // BYTES_PER_TOKEN)
