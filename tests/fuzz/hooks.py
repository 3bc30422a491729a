"""What schemathesis need not try: requests whose fate JSON Schema cannot tell."""

from collections.abc import Mapping
from typing import Any

import schemathesis


@schemathesis.hook
def filter_case(context: schemathesis.HookContext, case: schemathesis.Case) -> bool:
    query, headers, body = (sent if isinstance(sent, Mapping) else {} for sent in (case.query, case.headers, case.body))
    operation = context.operation.definition.raw.get("operationId")
    if operation in ("events", "runs_stream"):
        # The feed's are one's own; and in this header schemathesis tries "0", whatever the schema says.
        return "Last-Event-ID" not in headers
    if operation == "chats_runs_start":
        # Which models there are is a matter of settings, what can be continued one of the chat.
        return not isinstance(body.get("model"), str) and body.get("continue") is not True
    if operation == "ai_sdk_send":
        return _says_something(body.get("messages"))
    return "cursor" not in query  # they are signed


def _says_something(messages: Any) -> bool:
    """Of several messages the last counts, and the schema cannot say so; nor what a good `data:` URL is."""
    if not isinstance(messages, list) or len(messages) > 1:
        return not isinstance(messages, list)
    parts = messages[0].get("parts") if messages and isinstance(messages[0], dict) else None
    kinds = [part.get("type") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    return "file" not in kinds
