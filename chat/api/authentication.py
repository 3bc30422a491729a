"""Who is asking: a program with a token, or a browser with its session."""

from typing import Any

from django.http import QueryDict
from knox.auth import TokenAuthentication as KnoxTokenAuthentication
from rest_framework import authentication, exceptions
from rest_framework.request import Request

from chat.api.errors import ApiError
from chat.models import Token
from chat.tokens import note_use


class TokenAuthentication(KnoxTokenAuthentication):  # type: ignore[misc]
    """`Authorization: Token <key>`."""

    def authenticate_credentials(self, token: bytes) -> Any:
        if not token.isalnum():
            raise exceptions.AuthenticationFailed("Invalid token.")
        user, found = super().authenticate_credentials(token)
        note_use(found)
        return user, found

    def _cleanup_token(self, auth_token: Token) -> bool:
        """Whether it has expired. knox reads all tokens of the user here, in every request, and deletes the expired;
        the page still shows them."""
        return auth_token.is_expired


class SessionAuthentication(authentication.SessionAuthentication):
    """The browser's cookie, with CSRF on every unsafe method: the header counts, and nothing in the body."""

    def enforce_csrf(self, request: Request) -> None:
        plain = request._request
        # Else the body is parsed in search of a token, before it is known whether anybody of ours sent it.
        plain.POST = QueryDict()
        try:
            super().enforce_csrf(plain)  # type: ignore[arg-type]
        except exceptions.PermissionDenied as error:
            raise ApiError(403, "CSRF_FAILED", "The CSRF token is missing or wrong.") from error
