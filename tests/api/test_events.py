"""The door to the lifecycle feed; what comes through it is in tests/runs/test_feed.py."""

import pytest

from tests.api.callers import Api, assert_refused

pytestmark = pytest.mark.django_db


def test_a_head_tells_what_a_get_would_answer(api: Api) -> None:
    response = api.head("/api/events")
    assert response.status_code == 200
    assert response["Content-Type"] == "text/event-stream"
    assert response["Cache-Control"] == "no-cache, no-transform"


@pytest.mark.parametrize(
    "sent", ["", "0", "-1", "abc", "error", "user-1", "user-0:0", "user-1:0,user-2:0", "9" * 10_000]
)
def test_an_id_that_is_none_of_ours_is_refused(api: Api, sent: str) -> None:
    assert_refused(api.get("/api/events", headers={"Last-Event-ID": sent}), "CURSOR_INVALID")


@pytest.mark.parametrize("query", ["channel=user-1", "es-meta=x", "lastEventId=user-1:0", "link=next", "recover=true"])
def test_what_the_library_would_read_from_a_query_is_refused(api: Api, query: str) -> None:
    assert_refused(api.get(f"/api/events?{query}"), "INVALID", query.partition("=")[0])
