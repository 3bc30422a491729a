"""Runs and summaries in the admin site: looked at, and stopped; nothing else."""

from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.test import Client
from uuid_utils.compat import uuid7

from runs.models import Run, Summary
from tests.factories import MessageFactory, run_in

pytestmark = pytest.mark.django_db

RUNS = "/admin/runs/run/"


def stop(client: Client, *runs: Run) -> Any:
    selected = [str(run.pk) for run in runs]
    return client.post(RUNS, {"action": "stop_selected", "_selected_action": selected}, follow=True)


def test_the_list_shows_who_holds_a_run_and_since_when_it_is_silent(admin: Client) -> None:
    run = run_in("running")
    page = admin.get(RUNS).content.decode()
    assert run.pk.hex[-12:] in page
    assert run.worker in page
    assert "0 s ago" in page
    assert admin.get(f"{RUNS}{run.pk}/change/").status_code == 200


def test_selected_runs_are_stopped_and_it_is_said_how_many(admin: Client, redis: Any) -> None:
    running, pending, over = run_in("running"), run_in("pending"), run_in("succeeded")
    assert b"2 asked to stop, 0 were asked already, 1 had ended." in stop(admin, running, pending, over).content
    for run in (running, pending, over):
        run.refresh_from_db()
    assert (running.stop_source, running.stop_requested_at is None) == ("admin", False)
    assert (pending.status, pending.end_reason) == ("aborted", "stopped")
    assert over.status == "succeeded"
    assert b"0 asked to stop, 1 were asked already, 0 had ended." in stop(admin, running).content


def test_who_may_only_look_may_not_stop(redis: Any) -> None:
    run = run_in("running")
    looker = get_user_model().objects.create_user("looker", is_staff=True)
    looker.user_permissions.add(Permission.objects.get(codename="view_run"))
    client = Client()
    client.force_login(looker)
    assert client.get(RUNS).status_code == 200
    stop(client, run)
    run.refresh_from_db()
    assert run.stop_requested_at is None


@pytest.mark.parametrize("model", ["run", "summary"])
def test_nothing_is_added_or_deleted(admin: Client, model: str) -> None:
    assert admin.get(f"/admin/runs/{model}/add/").status_code == 403
    run = run_in("succeeded")
    assert admin.post(f"{RUNS}{run.pk}/delete/", {"post": "yes"}).status_code == 403


def test_a_summary_is_shown_with_what_it_stands_for(admin: Client) -> None:
    message = MessageFactory()
    summary = Summary.objects.create(
        id=uuid7(), chat=message.chat, first=message, last=message, message_count=1, text="in short", model="openai/a"
    )
    assert b"openai/a" in admin.get("/admin/runs/summary/").content
    assert b"in short" in admin.get(f"/admin/runs/summary/{summary.pk}/change/").content
