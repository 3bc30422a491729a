"""What the agent is told and may use in a run: the built-in tools, and the one that knows the chats."""

from typing import Annotated, Any

from django.contrib.postgres.search import SearchQuery
from django.db import connection
from pydantic import Field

from agents.tools import BUILT_IN, Repeat, Tool, ToolContext, tool
from chat.models import Chat, Message

INSTRUCTIONS = (
    "You are a helpful assistant. Use the tools where they give a better answer than memory does: "
    "the time in a zone, exact arithmetic, what was said in the person's other chats."
)
LONGEST_QUOTE = 500


@tool(repeat=Repeat.SAFE, timeout=10)
def search_chats(
    context: ToolContext,
    words: Annotated[str, Field(description="Words to look for; quote a phrase, put - before a word to leave out.")],
    limit: Annotated[int, Field(ge=1, le=20, description="How many messages at the most.")] = 5,
) -> list[dict[str, Any]]:
    """Searches the person's own chats, newest first, and quotes the messages that hold these words."""
    try:
        return _found(context, words, limit)
    finally:
        connection.close()  # a tool has a thread of its own


def _found(context: ToolContext, words: str, limit: int) -> list[dict[str, Any]]:
    query = SearchQuery(words, config="simple", search_type="websearch")
    chats = Chat.objects.owned_by(context.user_id).exclude(pk=context.chat_id)
    found = Message.objects.current().filter(search=query, chat__in=chats).select_related("chat")
    return [
        {
            "chat": message.chat.title,
            "role": message.role,
            "said_at": message.created_at.isoformat(timespec="seconds"),
            "text": _text(message)[:LONGEST_QUOTE],
        }
        for message in found.order_by("-created_at")[:limit]
    ]


def _text(message: Message) -> str:
    return "".join(part["text"] for part in message.parts if part["type"] == "text")


TOOLS: dict[str, Tool] = {built_in.name: built_in for built_in in (*BUILT_IN, search_chats)}
