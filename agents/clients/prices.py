"""What a call costs and how long it may be, from the price list that comes with litellm, read without importing it."""

from decimal import Decimal
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson

LIST = "model_prices_and_context_window_backup.json"


def cost_usd(model: str, input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> Decimal:
    """`cached_tokens` are among the `input_tokens`. Zero for a model that the list does not know."""
    price = _entry(model)
    full = _rate(price, "input_cost_per_token", input_tokens)
    cached = _rate(price, "cache_read_input_token_cost", input_tokens)
    written = _rate(price, "output_cost_per_token", input_tokens)
    fresh = input_tokens - cached_tokens
    cost = full * fresh + (cached or full) * cached_tokens + written * output_tokens
    return cost.quantize(Decimal("0.00000001"))


def context_tokens(model: str) -> int | None:
    """How long a request to it may be; None for a model that the list does not know."""
    said = _entry(model).get("max_input_tokens")
    return said if isinstance(said, int) and said > 0 else None  # a few entries hold prose


def _entry(model: str) -> dict[str, Any]:
    return _prices().get(model) or _prices().get(model.partition("/")[2]) or {}


def _rate(price: dict[str, Any], name: str, input_tokens: int) -> Decimal:
    """Some models cost more once a request is longer than so many thousand tokens."""
    rate = price.get(name)
    for limit in (100, 128, 200, 272, 512):
        if input_tokens > limit * 1000:
            rate = price.get(f"{name}_above_{limit}k_tokens", rate)
    return Decimal(str(rate or 0))


@cache
def _prices() -> dict[str, dict[str, Any]]:
    found = find_spec("litellm")
    if found is None or found.origin is None:
        return {}
    prices: dict[str, dict[str, Any]] = orjson.loads((Path(found.origin).parent / LIST).read_bytes())
    return prices
