"""The web pages: the one page that is the whole chat UI, and the way in and out."""

from uuid import UUID

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import LoginView, LogoutView
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import include, path
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_safe


@require_safe
@never_cache
@login_required
@ensure_csrf_cookie
def index(request: HttpRequest, chat: UUID | None = None) -> HttpResponse:
    """The page is the same for every address: it asks the API for the chat, which decides who may see it."""
    response = render(request, "chat/page.html", {"message_bytes": settings.MESSAGE_MAX_BYTES})
    # Browsers resolve the hosts of links before anybody clicks; a link written by a model could carry data out so.
    response["X-DNS-Prefetch-Control"] = "off"
    return response


# Its address is given to it by `config.urls`, which knows how often somebody may try.
LOGIN = LoginView.as_view(template_name="chat/login.html")

urlpatterns = [
    path("", index, name="index"),
    path("c/<uuid:chat>", index, name="chat-page"),
    path("logout", LogoutView.as_view(), name="logout"),
    path("", include("chat.token_pages")),
]
