"""The first user of an installation, ready to call the API."""

import json
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandParser
from django.db import transaction

from chat.models import Membership, Token, Workspace

TOKEN_NAME = "bootstrap"  # noqa: S105 (no password)


class Command(BaseCommand):
    help = "Creates user and workspace where missing, makes a token and prints one JSON line."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--username", required=True)
        parser.add_argument("--password", required=True)
        parser.add_argument("--superuser", action="store_true", help="may use the admin site")

    @transaction.atomic
    def handle(self, *, username: str, password: str, superuser: bool, **_: Any) -> None:
        user, _created = get_user_model().objects.get_or_create(username=username)
        user.set_password(password)
        user.is_staff = user.is_superuser = superuser or user.is_superuser
        user.save()
        membership = Membership.objects.filter(user=user).select_related("workspace").first()
        workspace = membership.workspace if membership else self._workspace(user)
        _, token = Token.objects.create(user, name=TOKEN_NAME)
        self.stdout.write(json.dumps({"username": username, "workspace_id": str(workspace.pk), "token": token}))

    def _workspace(self, user: Any) -> Workspace:
        workspace = Workspace.objects.create(
            name=f"{user.get_username()}'s workspace", ai_chat=True, autonomous_runs=True
        )
        Membership.objects.create(workspace=workspace, user=user, role=Membership.Role.OWNER)
        return workspace
