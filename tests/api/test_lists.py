"""Every list in pages: forwards, backwards, and with cursors that nobody gave out."""

from typing import Any
from uuid import UUID

import pytest

from chat.models import Chat
from tests.api.callers import Api, assert_refused, by_session
from tests.factories import ChatFactory, MembershipFactory, MessageFactory, StepFactory, UserFactory, run_in

pytestmark = pytest.mark.django_db

LISTS = [
    "/api/chats",
    "/api/runs",
    "/api/chats/{chat}/messages",
    "/api/chats/{chat}/messages?order=newest",
    "/api/chats/{chat}/runs",
    "/api/runs/{run}/steps",
]


@pytest.fixture
def ids(chat: Chat) -> dict[str, UUID]:
    """Of a chat and a run: there are five of everything."""
    for _ in range(4):
        ChatFactory(created_by=chat.created_by, workspace=chat.workspace)
        run = run_in("succeeded", chat=chat)
    run = run_in("succeeded", chat=chat)
    for index in range(5):
        StepFactory(run=run, index=index)
    return {"chat": chat.pk, "run": run.pk}


def with_query(path: str, query: str) -> str:
    return f"{path}{'&' if '?' in path else '?'}{query}"


def walk(api: Api, url: str | None, way: str = "next") -> list[list[Any]]:
    pages = []
    while url:
        response = api.get(url)
        assert response.status_code == 200, response.text
        assert set(response.json()) == {"next", "previous", "results"}
        pages.append(response.json()["results"])
        url = response.json()[way]
    return pages


@pytest.mark.parametrize("path", LISTS)
def test_pages_make_up_the_list_in_both_directions(api: Api, ids: dict[str, UUID], path: str) -> None:
    path = path.format(**ids)
    (whole,) = walk(api, path)
    assert len(whole) == 5
    # when
    pages = walk(api, with_query(path, "limit=2"))
    # then
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [entry for page in pages for entry in page] == whole
    # and back again from the last one
    second = api.get(api.get(with_query(path, "limit=2")).json()["next"]).json()
    last = api.get(second["next"]).json()
    assert walk(api, last["previous"], "previous") == pages[1::-1]


def test_a_page_has_fifty_entries_unless_asked_for_up_to_200(api: Api, chat: Chat) -> None:
    MessageFactory.create_batch(201, chat=chat)
    path = f"/api/chats/{chat.pk}/messages"
    sizes = [len(api.get(path + query).json()["results"]) for query in ("", "?limit=1", "?limit=200")]
    assert sizes == [50, 1, 200]


LIMITS = [
    "0",
    "-1",
    "201",
    "1e3",
    "abc",
    "",
    "1000000000",
    str(2**63),
    "+1",
    "1.0",
    " 1",
    "５",
    "٣",
    "0x1",
    "01",
    "9" * 5000,
]


@pytest.mark.parametrize("path", LISTS)
def test_a_limit_is_a_whole_number_from_1_to_200(api: Api, ids: dict[str, UUID], path: str) -> None:
    for limit in LIMITS:
        assert_refused(api.get(path.partition("?")[0].format(**ids), {"limit": limit}), "INVALID", "limit")


@pytest.mark.parametrize("path", LISTS)
def test_a_cursor_nobody_gave_out_is_refused(api: Api, ids: dict[str, UUID], path: str) -> None:
    path = path.format(**ids)
    cursor = api.get(with_query(path, "limit=2")).json()["next"].rpartition("cursor=")[2]
    cursor = cursor.partition("&")[0]
    assert api.get(with_query(path, f"cursor={cursor}")).status_code == 200
    for forged in (
        "",
        "x",
        "cD0yMDI2",
        "%00",
        cursor + "x",
        "x" + cursor,
        cursor[1:],
        cursor.swapcase(),
        "%F0%9F%99%82:a",
        "x" * 100_000,
    ):
        response = api.get(with_query(path, f"cursor={forged}"))
        assert_refused(response, "CURSOR_INVALID")


def test_a_cursor_of_another_list_is_refused(api: Api, ids: dict[str, UUID], person: Any, chat: Chat) -> None:
    # given the cursor of every list
    other_chat = ChatFactory(created_by=person, workspace=chat.workspace)
    lists = [path.format(**ids) for path in LISTS]
    cursors = {path: api.get(with_query(path, "limit=2")).json()["next"].partition("cursor=")[2] for path in lists}
    cursors = {path: cursor.partition("&")[0] for path, cursor in cursors.items()}
    # then none of them is good for another, even of the same kind
    lists += [f"/api/chats/{other_chat.pk}/messages", f"/api/chats/{other_chat.pk}/runs"]
    for origin, cursor in cursors.items():
        for path in lists:
            if path != origin:
                assert_refused(api.get(with_query(path, f"cursor={cursor}")), "CURSOR_INVALID")


def test_a_cursor_of_another_person_is_refused(api: Api, ids: dict[str, UUID]) -> None:
    stranger = by_session(MembershipFactory().user)
    for path in ("/api/chats", "/api/runs"):
        cursor = api.get(f"{path}?limit=2").json()["next"].partition("cursor=")[2].partition("&")[0]
        assert_refused(stranger.get(f"{path}?cursor={cursor}"), "CURSOR_INVALID")


def test_a_cursor_outlives_the_row_it_points_to(api: Api, ids: dict[str, UUID]) -> None:
    first = api.get("/api/chats?limit=2").json()
    Chat.objects.filter(pk=first["results"][1]["id"]).delete()
    assert len(api.get(first["next"]).json()["results"]) == 2


def test_lists_of_nobody_are_empty() -> None:
    api = by_session(UserFactory())
    for path in ("/api/chats", "/api/runs"):
        assert api.get(path).json() == {"next": None, "previous": None, "results": []}


UNKNOWN = [
    *("ordering=password", "ordering=-created_at,--created_at", "page=0", "offset=1", "fields=error", "format=api"),
    *("_method=DELETE", "chat__created_by__username__startswith=a", "id__in=x", "search=x", "created_at=infinity"),
    *("LIMIT=1", "limit[]=1", "limit=1&limit=1", "cursor=&cursor=", "a" * 5000 + "=1", "=1", "%00=1", "%ff=1", "x"),
]


@pytest.mark.parametrize("path", LISTS)
def test_a_list_refuses_what_it_does_not_know(api: Api, ids: dict[str, UUID], path: str) -> None:
    for query in UNKNOWN:
        response = api.get(f"{path.partition('?')[0].format(**ids)}?{query}")
        assert assert_refused(response, "INVALID")["errors"]


FILTERS = {
    "/api/runs": [
        *(f"status={status}" for status in ("foo", "running,pending", "", "RUNNING", "running%00")),
        *(f"chat={chat}" for chat in ("", "null", "me", "1", "0" * 32, "{chat}x", "urn:uuid:{chat}", "%7B{chat}%7D")),
    ],
    "/api/chats": [f"q={words}" for words in ("", "%20", "%E2%80%8B", "a%00", "a" * 501)],
    "/api/chats/{chat}/messages": ["order=oldest,newest", "order=", "exclude_active=true", "exclude_active=2", "q=x"],
    "/api/chats/{chat}/export": ["format=pdf", "format=", "format=JSON", "limit=1"],
}


@pytest.mark.parametrize("path", FILTERS)
def test_a_filter_takes_its_own_values_only(api: Api, ids: dict[str, UUID], path: str) -> None:
    for query in FILTERS[path]:
        response = api.get(f"{path}?{query}".format(**ids))
        assert_refused(response, "INVALID", query.partition("=")[0])


def test_more_parameters_than_anybody_needs_are_refused(api: Api) -> None:
    assert_refused(api.get("/api/chats?" + "&".join(f"a{number}=1" for number in range(2000))), "INVALID")
