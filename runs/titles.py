"""Gives a chat without a title one when a turn in it has ended: the model's words, or else the first of the person's.

Best effort: what is lost on the way is asked for again after the next turn. A title that a person gave always stays.
"""

from __future__ import annotations

import asyncio
import re
import unicodedata
from contextlib import aclosing
from dataclasses import dataclass
from uuid import UUID

import structlog
from django.conf import settings

from agents.clients import is_ours
from agents.llm import ModelClient, ModelError, ModelRequest, ProviderMessage, Said
from chat.models import Chat, Message
from chat.parts import text_of
from runs import dispatch, feed
from runs.database import TRANSIENT, in_thread
from runs.models import Run

logger = structlog.get_logger(__name__)

TASK = "runs.title_chat"
MODEL_SECONDS = 10.0
LONGEST_TITLE = 80
LONGEST_QUOTE = 2000
# The person's words are not the last ones: who reads instructions in the last message finds ours.
INSTRUCTIONS = "You give conversations their titles."
REQUEST = "Give this conversation a title of at most six words, in its own language. Answer with the title alone."


async def ask_for(chat_id: UUID) -> None:
    """Asks a worker of the ops queue for a title, if the chat has none. Nobody waits for it or hears of its failure."""
    try:
        if await in_thread(_has_none, chat_id):
            async with asyncio.timeout(dispatch.SEND_SECONDS):
                await asyncio.wrap_future(dispatch.submit(TASK, [str(chat_id)], "ops"))
    except Exception as error:
        logger.warning("title_not_asked_for", chat_id=str(chat_id), error=type(error).__name__)


async def give(client: ModelClient, chat_id: UUID) -> None:
    """May run any number of times, also at once: the first title stays."""
    try:
        beginning = await in_thread(_beginning, chat_id)
        if beginning is None:
            return
        title = as_title(await _proposed(client, beginning)) or first_words(beginning.question)
        if title:
            await in_thread(_set, chat_id, title)
    except TRANSIENT as error:
        logger.warning("title_not_given", chat_id=str(chat_id), error=type(error).__name__)


@dataclass(frozen=True, slots=True)
class Beginning:
    """What there is to find a title in; `answer` is empty where the model has said nothing."""

    question: str
    answer: str
    model: str


def _has_none(chat_id: UUID) -> bool:
    return Chat.objects.filter(pk=chat_id, title="").exists()


def _beginning(chat_id: UUID) -> Beginning | None:
    """None: the chat is gone, has a title by now, or nobody has said anything in it."""
    run = Run.objects.filter(chat=chat_id, chat__title="").order_by("-created_at").first()
    first = list(Message.objects.current().filter(chat=chat_id).order_by("created_at", "pk")[:2])
    if run is None or not first:
        return None
    question, answer = (text_of(message.parts).strip() for message in (first[0], first[-1]))
    return Beginning(question, answer if len(first) > 1 else "", run.model)


def _set(chat_id: UUID, title: str) -> None:
    # Only where there is none still. Not an activity: the chat stays where it is in the list.
    if Chat.objects.filter(pk=chat_id, title="").update(title=title):
        feed.title_changed(chat_id)


async def _proposed(client: ModelClient, beginning: Beginning) -> str:
    """What the model says; nothing where it fails, takes too long, or has not answered the person either."""
    if not (beginning.question and beginning.answer and _costs_no_import(beginning.model)):
        return ""
    request = ModelRequest(beginning.model, _messages(beginning), (), settings.AGENT_API_BASE, MODEL_SECONDS)
    said = ""
    try:
        async with asyncio.timeout(MODEL_SECONDS), aclosing(client(request)) as deltas:
            async for delta in deltas:
                if isinstance(delta, Said) and delta.kind == "text":
                    said += delta.text
                if len(said) > LONGEST_QUOTE:
                    break  # that will be no title
    except (ModelError, TimeoutError) as error:
        logger.info("title_not_proposed", error=getattr(error, "code", "timeout"))
        return ""
    return said


def _costs_no_import(model: str) -> bool:
    """litellm takes seconds and 190 MB to import, which no worker of the ops queue does for a title."""
    return settings.AGENT_CLIENT != "litellm" and is_ours(model, settings.AGENT_API_BASE)


def _messages(beginning: Beginning) -> list[ProviderMessage]:
    return [
        {"role": "system", "content": INSTRUCTIONS},
        {"role": "user", "content": beginning.question[:LONGEST_QUOTE]},
        {"role": "assistant", "content": beginning.answer[:LONGEST_QUOTE]},
        {"role": "user", "content": REQUEST},
    ]


def as_title(text: str) -> str:
    """The first line of a model's answer without what models put around a title; empty if it is no title."""
    line = next(filter(None, map(_shown, text.splitlines())), "")
    line = re.sub(r"^title:\s*", "", line.strip("#*_`\"'“”„«» "), flags=re.IGNORECASE).strip("*_`\"'“”„«» ")
    return line if len(line) <= LONGEST_TITLE else ""


def first_words(text: str) -> str:
    """As much of the beginning as a title holds, cut between two words where there are any."""
    line = _shown(text[: 10 * LONGEST_TITLE])
    if len(line) <= LONGEST_TITLE:
        return line
    cut = line[:LONGEST_TITLE]
    return (cut.rpartition(" ")[0] or cut[:-1]) + "…"


def _shown(text: str) -> str:
    """On one line, without characters that show nothing or turn the text around. The joiners that scripts and emoji are
    written with stay."""
    kept = (
        character
        for character in " ".join(text.split())
        if character in "\u200c\u200d" or unicodedata.category(character)[0] != "C"
    )
    return "".join(kept).strip()
