"""What a model call used where nobody said: an estimate from its length, marked as one."""

import json
from collections.abc import Sequence
from typing import Any

from agents.llm import ProviderMessage, Usage

# Of English text as of JSON; other scripts take more bytes for a letter, and more tokens.
BYTES_PER_TOKEN = 4
# Where a request must fit, it had better be taken for too long than for too short.
FEWEST_BYTES_PER_TOKEN = 3


def estimated_usage(model: str, asked: Sequence[ProviderMessage], said: Sequence[dict[str, Any]]) -> Usage:
    """`said` is what came of the answer, as message parts."""
    # Here, because the clients bring what web processes, which estimate nothing, need not carry.
    from agents.clients.prices import cost_usd

    counts = _tokens(asked), _tokens([_content(part) for part in said])
    return Usage(*counts, cost_usd=cost_usd(model, *counts), estimated=True)


def _content(part: dict[str, Any]) -> Any:
    """What the model wrote of a part: not its type, nor what a tool answered."""
    return part.get("text", part.get("input", ""))


def most_tokens(written: Sequence[Any]) -> int:
    """What these messages, or tools, hardly exceed."""
    return -(-_bytes(written) // FEWEST_BYTES_PER_TOKEN)


def _tokens(written: Sequence[Any]) -> int:
    return -(-_bytes(written) // BYTES_PER_TOKEN)


def _bytes(written: Sequence[Any]) -> int:
    # Not orjson, which takes neither a number of any size nor half of a pair.
    return sum(len(json.dumps(item, ensure_ascii=False).encode(errors="surrogatepass")) for item in written)
