"""The chat's doors. What they show of runs is put in by whoever knows about runs (see `runs.api.views`)."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models.functions import Now
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from chat.access import ChatQuerySet
from chat.api.doors import Door
from chat.api.errors import ApiError
from chat.api.schema import operation, page_of
from chat.models import Chat, Membership, Workspace
from chat.serializers import ChatChange, ChatCreate, ChatOut, ChatQuery, MeOut


class Me(Door):
    @operation("me", "Who I am, and the workspaces I am in", responses=MeOut)
    def get(self, request: Request) -> Response:
        memberships = (
            Membership.objects.filter(user=request.user.pk)
            .select_related("workspace")
            .order_by("workspace__created_at")
        )
        me = {"id": request.user.pk, "username": request.user.get_username(), "workspaces": memberships}
        return Response(MeOut(me).data)


class ChatDoor(Door):
    """`chats` is all that the person may see; a subclass may annotate it."""

    def chats(self) -> ChatQuerySet:
        return Chat.objects.owned_by(self.request.user)

    def chat(self, chat: UUID) -> Chat:
        found = self.chats().filter(pk=chat).first()
        if found is None:
            raise ApiError(404, "NOT_FOUND", "There is nothing here.")
        return found

    def workspace(self, wanted: UUID | None, field: str) -> Workspace:
        """Where a new chat goes; `field` of the request is to blame if that is not clear."""
        joined = Workspace.objects.joined_by(self.request.user)
        if wanted is not None:
            found = joined.filter(pk=wanted).first()
            if found is None:
                raise ApiError(404, "NOT_FOUND", "There is no such workspace.")
            return found
        some = list(joined[:2])
        if not some:
            raise ApiError(403, "NO_WORKSPACE", "You are in no workspace.")
        if len(some) > 1:
            raise ValidationError({field: ["You are in more than one workspace: name one."]})
        return some[0]


class ChatList(ChatDoor):
    query_class = ChatQuery

    @operation("chats_list", "My chats, newest activity first", parameters=[ChatQuery], responses=page_of(ChatOut))
    def get(self, request: Request) -> Response:
        chats = self.chats()
        if words := self.query.get("q"):
            chats = chats.matching(words)
        return self.page(chats, ChatOut, "-updated_at", "-id")

    @operation(
        "chats_create",
        "Make a chat",
        request=ChatCreate,
        responses={201: ChatOut},
        refuses=("NO_WORKSPACE", "NOT_FOUND", "ID_TAKEN"),
    )
    def post(self, request: Request) -> Response:
        body = self.body(request, ChatCreate)
        workspace = self.workspace(body.get("workspace"), "workspace")
        fields: dict[str, Any] = {"pk": body["id"]} if "id" in body else {}
        if "role" in body:
            self.before_role(body["role"], workspace)
            fields["role_id"] = body["role"]
        fields["created_by_id"] = request.user.pk
        try:
            with transaction.atomic():
                chat = Chat(workspace=workspace, title=body.get("title", ""), **fields)
                chat.save(force_insert=True)
        except IntegrityError as error:
            if "id" in body and Chat.objects.filter(pk=body["id"]).exists():
                raise ApiError(409, "ID_TAKEN", "This id is taken.") from error
            raise
        return Response(ChatOut(self.chat(chat.pk)).data, status=201)

    def before_role(self, role: UUID, workspace: Workspace) -> None:
        """Raises ApiError where there is no such role in the workspace: a chat by itself does not know about them."""


class ChatDetail(ChatDoor):
    @operation("chats_read", "One chat", responses=ChatOut)
    def get(self, request: Request, chat: UUID) -> Response:
        return Response(ChatOut(self.chat(chat)).data)

    @operation("chats_rename", "Rename a chat", request=ChatChange, responses=ChatOut)
    def patch(self, request: Request, chat: UUID) -> Response:
        found = self.chat(chat)
        body = self.body(request, ChatChange)
        Chat.objects.filter(pk=found.pk).update(title=body["title"], updated_at=Now())
        self.after_rename(found)
        return Response(ChatOut(self.chat(chat)).data)

    @operation("chats_delete", "Delete a chat; its run is stopped first", responses={204: None})
    def delete(self, request: Request, chat: UUID) -> Response:
        found = self.chat(chat)
        with transaction.atomic():
            # Whoever begins or ends a turn locks the chat first too, so nothing is added to it while it goes.
            Chat.objects.select_for_update().filter(pk=found.pk).values_list("pk").first()
            self.before_delete(found)
            found.delete()
        return Response(status=204)

    def after_rename(self, chat: Chat) -> None:
        """For whoever tells others."""

    def before_delete(self, chat: Chat) -> None:
        """What has to end before the chat does; the chat is locked."""
