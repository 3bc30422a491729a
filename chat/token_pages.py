"""The page on which people make and revoke the tokens of their programs. It works without scripts."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from django import forms
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST
from django.views.generic import View

from chat.api.strict import shows_anything
from chat.models import Token
from chat.tokens import MOST_PER_PERSON, TooManyTokens, issue, revoke

LIFETIMES = [(7, "7 days"), (30, "30 days"), (90, "90 days"), (365, "a year")]


class TokenForm(forms.Form):
    name = forms.CharField(max_length=100)
    days = forms.TypedChoiceField(label="Expires after", choices=LIFETIMES, coerce=int, initial=30)

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if not shows_anything(name):
            raise forms.ValidationError("This name cannot be seen.")
        return name


@method_decorator([never_cache, login_required], name="dispatch")
class Tokens(View):
    def get(self, request: HttpRequest) -> HttpResponse:
        return _page(request, TokenForm())

    def post(self, request: HttpRequest) -> HttpResponse:
        """The answer shows the secret, once: no address and no session ever holds it."""
        form = TokenForm(request.POST)
        if not form.is_valid():
            return _page(request, form, status=400)
        try:
            token, secret = issue(request.user, form.cleaned_data["name"], timedelta(days=form.cleaned_data["days"]))
        except TooManyTokens:
            form.add_error(None, f"You have {MOST_PER_PERSON} tokens, which is the most. Revoke one first.")
            return _page(request, form, status=400)
        return _page(request, TokenForm(), status=201, made=token, secret=secret)


@require_POST
@never_cache
@login_required
def revoke_token(request: HttpRequest, token: UUID) -> HttpResponse:
    if not revoke(request.user, token):
        raise Http404
    return redirect("tokens")


def _page(request: HttpRequest, form: TokenForm, status: int = 200, **more: Any) -> HttpResponse:
    tokens = Token.objects.filter(user=request.user).order_by("-created", "-pk")
    return render(request, "chat/tokens.html", {"form": form, "tokens": tokens, **more}, status=status)


urlpatterns = [
    path("tokens", Tokens.as_view(), name="tokens"),
    path("tokens/<uuid:token>/revoke", revoke_token, name="token-revoke"),
]
