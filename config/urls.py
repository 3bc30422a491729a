"""All addresses of the service, and what is answered where there is none."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.urls import include, path, re_path
from drf_spectacular.views import SpectacularJSONAPIView, SpectacularSwaggerSplitView
from rest_framework.request import Request

from chat.api.doors import Door
from chat.api.errors import ApiError, plain_error
from chat.pages import LOGIN
from config import health, logins


class Nowhere(Door):
    """Every address below /api/ that is no route."""

    schema = None
    authentication_classes = ()
    permission_classes = ()

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        raise ApiError(404, "NOT_FOUND", "There is nothing here.")


urlpatterns = [
    path("healthz", health.healthz),
    path("readyz", health.readyz),
    path("api/schema", SpectacularJSONAPIView.as_view(), name="schema"),
    path("api/docs", SpectacularSwaggerSplitView.as_view(template_name="chat/docs.html"), name="docs"),
    path("api/", include("runs.api.urls")),
    re_path(r"^api(?:/|\Z)", Nowhere.as_view()),
    path("admin/login/", logins.rarely(admin.site.login)),
    path("admin/", admin.site.urls),
    path("login", logins.rarely(LOGIN), name="login"),
    path("", include("chat.pages")),
]


def _error(request: HttpRequest, status: int) -> HttpResponse:
    if request.path.startswith("/api/"):
        return JsonResponse(plain_error(status), status=status)
    return render(request, "chat/error.html", plain_error(status), status=status)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _error(request, 400)


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _error(request, 403)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _error(request, 404)


def broken(request: HttpRequest) -> HttpResponse:
    return _error(request, 500)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Of pages; the API checks by itself."""
    return _error(request, 403)


handler400 = "config.urls.bad_request"
handler403 = "config.urls.forbidden"
handler404 = "config.urls.not_found"
handler500 = "config.urls.broken"
