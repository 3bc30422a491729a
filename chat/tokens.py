"""Tokens of programs: made, used, and taken back."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog
from django.contrib.auth import get_user_model
from django.db import Error, transaction
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone

from chat.models import Token

logger = structlog.get_logger(__name__)

MOST_PER_PERSON = 50
# How old the time of the last use may be: one write for all requests of so long.
USE_GRAIN = timedelta(minutes=1)


class TooManyTokens(Exception):
    """The person has as many as anybody may have, the expired included."""


def issue(user: Any, name: str, lifetime: timedelta) -> tuple[Token, str]:
    """The new token and its secret, which is stored nowhere. Raises TooManyTokens."""
    with transaction.atomic():
        # Whoever makes another one at this moment waits, and counts this one too.
        get_user_model().objects.select_for_update(no_key=True).get(pk=user.pk)
        if Token.objects.filter(user=user).count() >= MOST_PER_PERSON:
            raise TooManyTokens
        token, secret = Token.objects.create(user, name=name, expiry=lifetime)
    return token, secret


def revoke(user: Any, token_id: UUID) -> bool:
    """Whether the person had this token."""
    deleted, _ = Token.objects.filter(user=user, pk=token_id).delete()
    return bool(deleted)


def note_use(token: Token) -> None:
    """Writes that it is used now, unless that was written less than `USE_GRAIN` ago. Never waits for whoever holds the
    row, and never raises: a request does not depend on it."""
    used_at = token.last_used_at
    if used_at is not None and used_at > timezone.now() - USE_GRAIN:
        return
    due = Q(last_used_at=None) | Q(last_used_at__lt=Now() - USE_GRAIN)
    try:
        with transaction.atomic():
            free = Token.objects.select_for_update(skip_locked=True).filter(due, pk=token.pk)
            Token.objects.filter(pk__in=free.values("pk")).update(last_used_at=Now())
    except Error as error:
        logger.warning("token_use_not_noted", error=type(error).__name__)
