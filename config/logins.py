"""Ways to log in, each of which a person may try only so often from one place."""

import unicodedata
from collections.abc import Callable
from functools import wraps

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import render

from chat.api.errors import plain_error
from runs.api.rates import seconds_to_wait

View = Callable[..., HttpResponseBase]


def rarely(view: View) -> View:
    """The view, its POSTs counted for each name and address. Behind a proxy the address is what the server takes from
    its headers, see uvicorn's `--forwarded-allow-ips`."""

    @wraps(view)
    def counting(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponseBase:
        seconds = _seconds_to_wait(request) if request.method == "POST" else 0
        if seconds:
            response = render(request, "chat/error.html", plain_error(429), status=429)
            response["Retry-After"] = str(seconds)
            return response
        return view(request, *args, **kwargs)

    return counting


def _seconds_to_wait(request: HttpRequest) -> int:
    # As Django's forms read it: other spellings of one name are one name.
    name = unicodedata.normalize("NFKC", request.POST.get("username", "").strip())
    return seconds_to_wait("logins", settings.LIMIT_LOGINS_PER_MINUTE, name, request.META["REMOTE_ADDR"])
