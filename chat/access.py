"""Who may see what, as querysets: a chat belongs to one person, for as long as that person is in its workspace, and
what was replaced in it is seen by nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from django.contrib.postgres.search import SearchQuery
from django.db import models
from django.db.models import Q

if TYPE_CHECKING:
    from chat.models import Chat, Message, Workspace  # noqa: F401

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
        in_messages = Message.objects.current().filter(search=query).values("chat")
        return self.filter(Q(search=query) | Q(pk__in=in_messages))


class MessageQuerySet(models.QuerySet["Message"]):
    def current(self) -> Self:
        """Without what was replaced: the conversation as it is now, for whoever reads, searches or goes on with it."""
        return self.filter(replaced_at=None)

    def called(self, name: str) -> Self:
        """By our id, or by the one that the client which sent it gave it."""
        try:
            return self.filter(Q(pk=UUID(name)) | Q(client_id=name))
        except ValueError:
            return self.filter(client_id=name)

    def from_on(self, message: Message) -> Self:
        """The message and all that came after it in its chat."""
        later = Q(created_at__gt=message.created_at) | Q(created_at=message.created_at, pk__gte=message.pk)
        return self.filter(later, chat=message.chat_id)

    def up_to(self, message: Message) -> Self:
        """The message and all that came before it in its chat."""
        earlier = Q(created_at__lt=message.created_at) | Q(created_at=message.created_at, pk__lte=message.pk)
        return self.filter(earlier, chat=message.chat_id)

    def after(self, message: Message) -> Self:
        """All that came after it in its chat."""
        later = Q(created_at__gt=message.created_at) | Q(created_at=message.created_at, pk__gt=message.pk)
        return self.filter(later, chat=message.chat_id)
