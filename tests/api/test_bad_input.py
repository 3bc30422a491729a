"""What no client should send: refused on every route, in the one error shape, and nothing changes.

The lengths and numbers of headers, lying Content-Lengths, pipelines and upgrades are the web server's business.
"""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import pytest

from chat.models import Chat
from tests.api.callers import Api, Json, assert_refused, assert_refused_somehow, by_session, nothing_changed
from tests.factories import ChatFactory, RoleFactory, RunFactory, WorkspaceFactory, run_in

pytestmark = pytest.mark.django_db

# Every route that takes a body, with the least that it takes.
BODIES: dict[tuple[str, str], Json] = {
    ("POST", "/api/chats"): {},
    ("PATCH", "/api/chats/{chat}"): {"title": "x"},
    ("POST", "/api/chats/{chat}/runs"): {"text": "x"},
    ("POST", "/api/chats/{chat}/stop"): {},
    ("POST", "/api/runs/{run}/stop"): {},
}
READS = [
    *(
        "/api/me",
        "/api/models",
        "/api/roles",
        "/api/chats",
        "/api/chats/{chat}",
        "/api/chats/{chat}/messages",
        "/api/runs",
    ),
    *("/api/chats/{chat}/export", "/api/chats/{chat}/runs", "/api/chats/{chat}/run", "/api/runs/{run}"),
    *("/api/runs/{run}/steps", "/api/runs/{run}/stream", "/api/runs/{run}/wait"),
]
JSON = "application/json"


@pytest.fixture
def ids(chat: Chat) -> dict[str, UUID]:
    """A run that a stop would change, and its chat."""
    return {"chat": chat.pk, "run": run_in("running", chat=chat).pk}


def everywhere(api: Api, ids: dict[str, UUID], raw: Any, content_type: str = JSON, **options: Any) -> Iterator[Any]:
    """The answers of all routes that take a body; they change nothing."""
    with nothing_changed():
        for method, path in BODIES:
            yield api.generic(method, path.format(**ids), raw, content_type, **options)


NOT_JSON = {
    "null": b"null",
    "list": b"[]",
    "list of one": b"[1]",
    "text": b'"text"',
    "number": b"1",
    "boolean": b"true",
    "open": b"{",
    "trailing comma": b'{"title": "x",}',
    "two documents": b"{}{}",
    "two lines": b"{}\n{}",
    "byte order mark": b"\xef\xbb\xbf{}",
    "utf-16": "{}".encode("utf-16"),
    "invalid utf-8": b'{"title": "\xff"}',
    "encoded surrogate": b'{"title": "\xed\xa0\x80"}',
    "NaN": b'{"title": NaN}',
    "Infinity": b'{"title": -Infinity}',
    "1e999": b'{"limits": 1e999}',
    "5000 digits": b'{"title": %s}' % (b"9" * 5000),
    "4000 digits": b'{"title": %s}' % (b"9" * 4000),
    "2^63": b'{"title": %d}' % 2**63,
    "open lists": b"[" * 100_000,
    "open objects": b'{"a":' * 100_000,
    "nested lists": b'{"title": %s%s}' % (b"[" * 51, b"]" * 51),
    "nested lists of another field": b'{"metadata": %s%s}' % (b"[" * 900, b"]" * 900),
    "name given twice": b'{"title": "a", "title": "b"}',
    "name given twice within": b'{"a": {"b": 1, "b": 2}}',
    "NUL in a name": b'{"\\u0000": 1}',
    "half a pair in a name": b'{"\\ud800": 1}',
    "half a pair in a name within": b'{"title": {"\\udfff": 1}}',
    "control character": b'{"title": "\x01"}',
    "single quotes": b"{'title': 'x'}",
    "comment": b'{} // "x"',
    "blank": b"   ",
    "NUL": b"\0",
    "__proto__": b'{"__proto__": {"status": "succeeded"}}',
    "constructor": b'{"constructor": {"prototype": {}}}',
    "empty name": b'{"": 1}',
    "long name": b'{"%s": 1}' % (b"x" * 100_000),
}


@pytest.mark.parametrize("raw", NOT_JSON.values(), ids=NOT_JSON)
def test_a_body_is_an_object_in_strict_json(api: Api, ids: dict[str, UUID], raw: bytes) -> None:
    for response in everywhere(api, ids, raw):
        assert_refused(response, "INVALID")


@pytest.mark.timeout(60)
def test_a_body_is_read_in_time_that_grows_with_its_length_only(api: Api, ids: dict[str, UUID]) -> None:
    for raw in (b'"' + b'\\"' * 20_000 + b"[" * 60, b'"\\' * 20_000 + b"{" * 60, b"[]" * 20_000, b'["' * 20_000):
        for response in everywhere(api, ids, raw):
            assert_refused(response, "INVALID")


def test_brackets_in_a_text_are_no_nesting(api: Api, ids: dict[str, UUID]) -> None:
    text = '[{\\"' * 1000
    response = api.post(f"/api/chats/{ids['chat']}/runs", {"text": text})
    assert_refused(response, "A_RUN_ALREADY_ACTIVE")


CONTENT_TYPES = [
    *("application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "multipart/form-data", "text/plain", ""),
    *("application/xml", "text/json", "application/vnd.api+json", "application/json; charset=utf-7", "application/jso"),
    *("application/json; charset=utf-16", "application/json; charset=nonsense", "*/*", "x" * 5000, "é", ";", "/"),
]


def test_a_body_that_says_it_is_no_json_is_refused(api: Api, ids: dict[str, UUID]) -> None:
    for content_type in CONTENT_TYPES:
        for response in everywhere(api, ids, b'{"title": "x"}', content_type):
            assert_refused(response, "UNSUPPORTED_MEDIA_TYPE")


FORMS = [
    ("application/x-www-form-urlencoded", b"title=x"),
    ("application/x-www-form-urlencoded", b"&".join([b"a=1"] * 2000)),
    ("application/x-www-form-urlencoded; charset=utf-7", b"csrfmiddlewaretoken=x"),
    ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="title"\r\n\r\nx\r\n--x--\r\n'),
    ("multipart/form-data; boundary=x", b"--x\r\ngarbage"),
    ("multipart/form-data; boundary=\xe9", b"--x--"),
    ("multipart/form-data", b"x"),
]


def test_a_form_is_refused_by_the_csrf_check_and_behind_it(ids: dict[str, UUID], person: Any) -> None:
    browser = by_session(person, enforce_csrf_checks=True)
    browser.get("/login")
    token = {"X-CSRFToken": browser.cookies["csrftoken"].value}
    for content_type, raw in FORMS:
        for headers in ({}, token):
            for response in everywhere(browser, ids, raw, content_type, headers=headers):
                assert_refused_somehow(response)


UNKNOWN_FIELDS = [
    *("status", "end_reason", "error", "attempt", "step_count", "finished_at", "created_by", "trigger", "detached"),
    *("workspace_id", "chat_id", "message_id", "run", "user", "created_at", "search", "claim_token", "owner", "Text"),
    *("api_base", "api_key", "base_url", "extra_headers", "tools", "tool_choice", "response_format", "temperature"),
    *("max_tokens", "stream", "messages", "system", "attachments", "runId", "force", "reason", "idempotency_key"),
    # of features that are still to come
    *("role_id", "on_active"),
]


def test_a_field_nobody_described_is_refused_by_name(api: Api, ids: dict[str, UUID]) -> None:
    with nothing_changed():
        for (method, path), least in BODIES.items():
            body = {**least, **dict.fromkeys(UNKNOWN_FIELDS, "x")}
            assert_refused(api.generic(method, path.format(**ids), json.dumps(body), JSON), "INVALID", *UNKNOWN_FIELDS)
            for value in (None, [], {}):
                body = {**least, "unknown": value}
                assert_refused(api.generic(method, path.format(**ids), json.dumps(body), JSON), "INVALID", "unknown")


TEXTS = [
    ("PATCH", "/api/chats/{chat}", "title"),
    ("POST", "/api/chats", "title"),
    ("POST", "/api/chats/{chat}/runs", "text"),
    ("POST", "/api/chats/{chat}/runs", "model"),
]
NO_TEXTS = [None, [], ["x"], {}, {"a": "b"}, 1, 0, 1.5, True, False, "\0", "a\0b", "\ud800", "a\udfffb"]
BLANKS = ["", " ", "\t\r\n", "\u200b\u2060\ufeff", "\u2028\u2029\x85\xa0", "\U000e0041", "\u202e\u2066", "\x1b\x07"]


@pytest.mark.parametrize(("method", "path", "name"), TEXTS)
def test_a_text_is_text(api: Api, ids: dict[str, UUID], method: str, path: str, name: str) -> None:
    with nothing_changed():
        for value in NO_TEXTS:
            body = {**BODIES[method, path], name: value}
            assert_refused(api.generic(method, path.format(**ids), json.dumps(body), JSON), "INVALID", name)


def test_a_message_shows_something(api: Api, ids: dict[str, UUID]) -> None:
    for blank in BLANKS:
        assert_refused(api.post(f"/api/chats/{ids['chat']}/runs", {"text": blank}), "INVALID", "text")


def test_a_text_that_is_too_long_is_refused(api: Api, ids: dict[str, UUID], settings: Any) -> None:
    path = f"/api/chats/{ids['chat']}/runs"
    for text in ("x" * (settings.MESSAGE_MAX_BYTES + 1), "🙂" * (settings.MESSAGE_MAX_BYTES // 4 + 1)):
        assert_refused(api.post(path, {"text": text}), "TOO_LARGE")
    assert_refused(api.post(path, {"text": "x" * settings.MESSAGE_MAX_BYTES}), "A_RUN_ALREADY_ACTIVE")
    assert_refused(api.post(path, {"text": "x", "model": "x" * 256}), "INVALID", "model")


NO_FLAGS = [None, 0, 1, 1.0, "true", "True", "on", "yes", "", [], [True], {}, {"a": True}]


def test_a_flag_is_true_or_false(api: Api, ids: dict[str, UUID]) -> None:
    with nothing_changed():
        for value in NO_FLAGS:
            response = api.post(f"/api/chats/{ids['chat']}/runs", json.dumps({"continue": value}))
            assert_refused(response, "INVALID", "continue")


NO_FILES: list[tuple[Any, str]] = [
    *((value, "files") for value in (None, "x", 1, True, {}, {"name": "a", "text": "b"}, "[]")),
    ([{"name": "a", "text": "b"}] * 21, "files"),
    *(([value], "files.0") for value in ("x", 1, [], [["a"]])),
    ([None], "files.0"),
    ([{}], "files.0.name"),
    ([{"name": "a"}], "files.0.text"),
    ([{"name": "a", "text": "b", "mediaType": "c"}], "files.0.mediaType"),
    ([{"name": "a", "text": "b"}, {"name": "", "text": "b"}], "files.1.name"),
    *(([{"name": "a", "text": text}], "files.0.text") for text in NO_TEXTS),
    *(([{"name": name, "text": "b"}], "files.0.name") for name in (*NO_TEXTS, *BLANKS)),
]
NO_FILE_NAMES = [
    *("/", "a/b", "../../etc/passwd", "/etc/passwd", "a\\b", "C:\\x", ".", "..", "a\n", "\na", "a\r\nb", "a\tb", "a\0"),
    *("a\x7f", "a\x85b", "a\u2028b", "a\u202egpj.exe", "a\u2066b", "x" * 256, "🙂" * 256),
]


@pytest.mark.parametrize(("files", "field"), NO_FILES, ids=str)
def test_a_file_is_a_name_and_a_text(api: Api, ids: dict[str, UUID], files: Any, field: str) -> None:
    with nothing_changed():
        response = api.post(f"/api/chats/{ids['chat']}/runs", json.dumps({"text": "x", "files": files}))
        assert_refused(response, "INVALID", field)


@pytest.mark.parametrize("name", NO_FILE_NAMES)
def test_the_name_of_a_file_is_no_path_and_one_line(api: Api, ids: dict[str, UUID], name: str) -> None:
    with nothing_changed():
        body = {"text": "x", "files": [{"name": name, "text": "b"}]}
        assert_refused(api.post(f"/api/chats/{ids['chat']}/runs", json.dumps(body)), "INVALID", "files.0.name")


def test_what_goes_with_a_turn_goes_together(api: Api, ids: dict[str, UUID]) -> None:
    file, some = {"name": "a", "text": "b"}, str(uuid4())
    with nothing_changed():
        for body, field in [
            ({}, "text"),
            ({"continue": False}, "text"),
            ({"files": [file]}, "text"),
            ({"continue": True, "text": "x"}, "text"),
            ({"continue": True, "files": [file]}, "files"),
            ({"continue": True, "replaces": some}, "replaces"),
            ({"replaces": some, "files": [file]}, "files"),
        ]:
            assert_refused(api.post(f"/api/chats/{ids['chat']}/runs", json.dumps(body)), "INVALID", field)


# `{id}` stands for the right one.
NO_IDS = [
    *("", " ", "null", "undefined", "true", "*", "me", "latest", "active", "%", "%20", "%2520", "../{id}", "{id}/"),
    *("0", "-1", "1", "1.0", "1e3", "9223372036854775808", "0x1", "0o17", "007", "１" * 32, "x" * 10_000, "\udcff"),
    *("{id}x", "x{id}", "{id}{id}", "{id};", "{id}|", "{id}'", "{id},{id}", "{id}%20", "urn:uuid:{id}", "{{{id}}}"),
    *(" {id}", "{id} ", "{id}\n", "{id}\0", "{id}\u200b", "AZIDr38acZGJsdIPbnumMA", "01ARZ3NDEKTSV4RRFFQ69G5FAV"),
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "ааааааа1-1111-1111-1111-111111111111",
]
NO_ID_VALUES = [7, 0, -1, 1.0, 2**63, True, None, [], {}, ["{id}"], [str(uuid4())] * 10_000, {"id": "x"}]
ID_FIELDS = [
    ("/api/chats", "id"),
    ("/api/chats", "workspace"),
    ("/api/chats", "role"),
    ("/api/chats/{chat}/runs", "id"),
    ("/api/chats/{chat}/runs", "replaces"),
    ("/api/chats/{chat}/runs", "role"),
    ("/api/chats/{chat}/stop", "run_id"),
]


@pytest.mark.parametrize(("path", "name"), ID_FIELDS)
def test_an_id_in_a_body_is_a_uuid_in_its_one_form(api: Api, ids: dict[str, UUID], path: str, name: str) -> None:
    right = str(ids["run"])
    values = [*(text.format(id=right) for text in NO_IDS), right.replace("-", ""), *NO_ID_VALUES]
    with nothing_changed():
        for value in values:
            body = {**BODIES["POST", path], name: value}
            assert_refused(api.post(path.format(**ids), json.dumps(body)), "INVALID", name)


WITH_ID = [("GET", path) for path in READS if "{" in path] + [
    *(route for route in BODIES if "{" in route[1]),
    ("DELETE", "/api/chats/{chat}"),
]


@pytest.mark.parametrize(("method", "path"), WITH_ID)
def test_an_address_that_names_nothing_is_not_there(
    api: Api, ids: dict[str, UUID], chat: Chat, method: str, path: str
) -> None:
    def ask(**ids: Any) -> Any:
        return api.generic(method, path.format(**ids), json.dumps(BODIES.get((method, path), {})), JSON)

    # given what is answered for an id that nobody has
    absent = ask(chat=uuid4(), run=uuid4())
    assert_refused(absent, "NOT_FOUND")
    # then nothing else is answered for another person's, for one of another kind, and for what is none at all
    strangers, colleagues = RunFactory(), RunFactory(chat=ChatFactory(workspace=chat.workspace))
    wrong = [{"chat": run.chat_id, "run": run.pk} for run in (strangers, colleagues)]
    wrong.append({"chat": ids["run"], "run": ids["chat"]})
    malformed = [{name: quoted(text.format(id=right)) for name, right in ids.items()} for text in NO_IDS]
    with nothing_changed():
        for other in wrong:
            response = ask(**other)
            assert (response.content, response.headers) == (absent.content, absent.headers)
        for other in malformed:
            response = ask(**other)
            assert (response.status_code, response.content) == (404, absent.content), other


def quoted(text: str) -> str:
    return quote(text, safe="%/", errors="surrogateescape")


@pytest.mark.parametrize("path", [*READS, *(path for _, path in BODIES)])
def test_a_route_answers_its_own_methods_only(api: Api, ids: dict[str, UUID], path: str) -> None:
    known = {"GET"} if path in READS else set()
    known |= {method for method, other in [*BODIES, ("DELETE", "/api/chats/{chat}")] if other == path}
    for method in {"GET", "POST", "PATCH", "DELETE", "PUT", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "QUERY"} - known:
        response = api.generic(method, path.format(**ids), b"{}", JSON)
        assert_refused(response, "METHOD_NOT_ALLOWED")
        assert set(response["Allow"].split(", ")) - {"HEAD"} == known


@pytest.mark.parametrize(
    "path", ["/api", "/api/", "/api/nothing", "/api//chats", "/api/chats/", "/api/.env", "/api/%00"]
)
def test_below_the_api_there_is_json_only(api: Api, ids: dict[str, UUID], path: str) -> None:
    for caller in (api, Api()):
        for method in ("GET", "POST", "PUT", "OPTIONS", "TRACE", "BREW"):
            assert_refused(caller.generic(method, path), "NOT_FOUND")


HARMLESS: list[dict[str, str]] = [
    *({"Accept": accept} for accept in ("*/*", "text/html", "application/x-foo", "", "é", "text/event-stream")),
    {"X-HTTP-Method-Override": "DELETE"},
    {"X-Forwarded-For": ", ".join(f"10.0.{number // 250}.{number % 250}" for number in range(1000))},
    {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "gopher"},
    {"Cookie": "a=" + "b" * 16_000},
    {"Idempotency-Key": "", "If-None-Match": "*", "Range": "bytes=0-1", "Expect": "100-continue"},
    {"X-Request-ID": "a\x1b[31m" + "b" * 10_000},
    {"Accept-Language": "x" * 5000, "Accept-Encoding": "gzip, br"},
    {f"X-{number}": "x" for number in range(1000)},
]


def test_headers_that_mean_nothing_here_change_nothing(program: Api, ids: dict[str, UUID]) -> None:
    with nothing_changed():
        for path in ("/api/me", f"/api/chats/{ids['chat']}", "/api/runs?limit=1"):
            usual = program.get(path)
            for headers in HARMLESS:
                response = program.get(path, headers=headers)
                assert (response.status_code, response["Content-Type"]) == (200, JSON)
                assert response.content == usual.content


@pytest.mark.parametrize(
    "host", ["evil.example", "testserver.evil.example", "testserver:99999x", "", "a b", "testserver,evil"]
)
def test_another_host_is_refused(api: Api, host: str) -> None:
    assert_refused(api.get("/api/me", headers={"Host": host}), "INVALID")


def test_what_is_anonymous_is_refused_before_it_is_looked_at(ids: dict[str, UUID]) -> None:
    for path in READS:
        assert_refused(Api().get(path.format(**ids) + "?unknown=1"), "NOT_AUTHENTICATED")
    for method, path in BODIES:
        assert_refused(Api().generic(method, path.format(**ids), b"{", JSON), "NOT_AUTHENTICATED")


def test_a_query_is_refused_where_none_is_known(api: Api, ids: dict[str, UUID]) -> None:
    lists = ("/messages", "/runs", "/chats", "/roles", "/steps", "/export", "/stream", "/wait")
    for path in READS:
        if not path.endswith(lists):
            assert_refused(api.get(path.format(**ids) + "?format=api"), "INVALID", "format")
    for method, path in BODIES:
        response = api.generic(method, path.format(**ids) + "?x=1", json.dumps(BODIES[method, path]), JSON)
        assert_refused(response, "INVALID", "x")


NO_COUNTS = [0, -1, 2**31, 2**63, -(2**63) - 1, 10**30, 1.5, 1e30, "1", "", "x", True, False, None, [], [1], {}]
NO_AMOUNTS = [0, 0.0, -0.0, -1, -0.5, 1e-9, 1e300, 10**400, "1", "", "NaN", True, False, None, [], [1.0], {}]
NO_LIMITS: list[tuple[str, Any]] = [
    *(("limits.steps", {"steps": value}) for value in NO_COUNTS),
    *(("limits.tokens", {"tokens": value}) for value in NO_COUNTS if value != 2**31),
    *(("limits.cost_usd", {"cost_usd": value}) for value in [*NO_AMOUNTS, 10**6]),
    *(("limits.seconds", {"seconds": value}) for value in [*NO_AMOUNTS, 10**8]),
    *(("limits", value) for value in (None, [], [{}], "x", "", 1, True)),
    *((f"limits.{name}", {name: 1}) for name in ("step", "Steps", "stall", "cost", "max_steps", "__proto__", "")),
]


def test_a_limit_is_a_number_above_zero_and_within_reason(api: Api, ids: dict[str, UUID]) -> None:
    with nothing_changed():
        for name, limits in NO_LIMITS:
            response = api.post(f"/api/chats/{ids['chat']}/runs", json.dumps({"text": "x", "limits": limits}))
            assert_refused(response, "INVALID", name)


@pytest.mark.parametrize("raw", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"01", b"0x1", b"1_0"])
def test_a_limit_is_written_as_json_has_it(api: Api, ids: dict[str, UUID], raw: bytes) -> None:
    with nothing_changed():
        for name in (b"steps", b"tokens", b"cost_usd", b"seconds"):
            body = b'{"text": "x", "limits": {"%s": %s}}' % (name, raw)
            assert_refused(api.post(f"/api/chats/{ids['chat']}/runs", body), "INVALID")


def test_a_role_that_is_not_there_looks_like_another_workspace_s(api: Api, ids: dict[str, UUID]) -> None:
    foreign = RoleFactory(workspace=WorkspaceFactory())
    with nothing_changed():
        for path in ("/api/chats", f"/api/chats/{ids['chat']}/runs"):
            least = {"text": "x"} if path.endswith("runs") else {}
            absent, other = (api.post(path, {**least, "role": str(role)}) for role in (uuid4(), foreign.pk))
            assert_refused(absent, "NOT_FOUND")
            assert (other.status_code, other.content) == (absent.status_code, absent.content)
