"""A conversation as a file: JSON for programs, Markdown for people."""

import json
import re
from collections.abc import Sequence
from typing import Any

from django.http import HttpResponse

from chat.models import Chat
from chat.parts import Part, file_of

_CONTENT_TYPES = {"markdown": "text/markdown; charset=utf-8", "json": "application/json"}
_SUFFIXES = {"markdown": "md", "json": "json"}


def export(chat: Chat, messages: Sequence[Any], form: str) -> HttpResponse:
    """`messages` are as the API shows them; `form` is markdown or json."""
    title = chat.title or "Chat"
    if form == "json":
        whole = {"id": str(chat.pk), "title": chat.title, "messages": messages}
        text = json.dumps(whole, ensure_ascii=False, indent=2, default=str)
    else:
        text = "\n\n".join([f"# {_one_line(title)}", *map(_markdown, messages)]) + "\n"
    response = HttpResponse(text, content_type=_CONTENT_TYPES[form])
    # A name made of letters and digits cannot carry a path, a quote or another header.
    name = re.sub(r"[^A-Za-z0-9]+", "-", title).strip("-")[:60] or "chat"
    response["Content-Disposition"] = f'attachment; filename="{name}.{_SUFFIXES[form]}"'
    return response


def _markdown(message: Any) -> str:
    who = {"user": "You", "assistant": "Assistant"}[message["role"]]
    ended = "" if message["status"] == "completed" else f" ({message['status']})"
    return "\n\n".join([f"## {who}{ended}", *filter(None, map(_part, message["parts"]))])


def _part(part: Part) -> str:
    if part["type"] == "text":
        return str(part["text"])
    if part["type"] == "file":
        file = file_of(part)
        name = file.name.replace("`", "'")
        return f"File `{name}`:\n\n{_fenced(file.text)}"
    if part["type"].startswith("tool-"):
        facts = {key: part[key] for key in ("input", "output", "errorText") if key in part}
        body = json.dumps(facts, ensure_ascii=False, indent=2)
        return f"Tool `{part['type'].removeprefix('tool-')}`:\n\n{_fenced(body, 'json')}"
    return ""


def _fenced(body: str, language: str = "") -> str:
    """A fence longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", body)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{body}\n{fence}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
