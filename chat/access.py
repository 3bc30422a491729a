"""Who may see what, as querysets: a chat belongs to one person, for as long as that person is in its workspace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from django.contrib.postgres.search import SearchQuery
from django.db import models
from django.db.models import Q

if TYPE_CHECKING:
    from chat.models import Chat, Workspace  # noqa: F401

# Whoever asks: a user, or its primary key where only that travelled (an agent's tool).
Asker = Any


class WorkspaceQuerySet(models.QuerySet["Workspace"]):
    def joined_by(self, user: Asker) -> Self:
        return self.filter(memberships__user=user)


class ChatQuerySet(models.QuerySet["Chat"]):
    def owned_by(self, user: Asker) -> Self:
        return self.filter(created_by=user, workspace__memberships__user=user)

    def matching(self, words: str) -> Self:
        """Chats with these words in their title or in one message; quotes, `or` and `-` as in a web search."""
        from chat.models import Message

        query = SearchQuery(words, config="simple", search_type="websearch")
        in_messages = Message.objects.filter(search=query).values("chat")
        return self.filter(Q(search=query) | Q(pk__in=in_messages))
