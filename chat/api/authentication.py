"""Who is asking: a program with a token, or a browser with its session."""

from typing import Any

from django.utils import timezone
from knox.auth import TokenAuthentication as KnoxTokenAuthentication
from rest_framework import authentication, exceptions
from rest_framework.request import Request

from chat.api.errors import ApiError


class TokenAuthentication(KnoxTokenAuthentication):  # type: ignore[misc]
    """`Authorization: Token <key>`."""

    def authenticate_credentials(self, token: bytes) -> Any:
        if not token.isalnum():
            raise exceptions.AuthenticationFailed("Invalid token.")
        return super().authenticate_credentials(token)

    def _cleanup_token(self, auth_token: Any) -> bool:
        """Whether it has expired. knox reads all tokens of the user here, in every request, to delete the expired."""
        if auth_token.expiry is None or auth_token.expiry > timezone.now():
            return False
        auth_token.delete()
        return True


class SessionAuthentication(authentication.SessionAuthentication):
    """The browser's cookie, with CSRF on every unsafe method."""

    def enforce_csrf(self, request: Request) -> None:
        try:
            super().enforce_csrf(request)
        except exceptions.PermissionDenied as error:
            raise ApiError(403, "CSRF_FAILED", "The CSRF token is missing or wrong.") from error
