"""Owns the API as a test sees it, with one user's token."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import httpx

from tests.acceptance.reader import Reader

Json = dict[str, Any]
TERMINAL = ("succeeded", "failed", "aborted")


class UnexpectedAnswer(AssertionError):
    """Another status than the test asked for."""

    def __init__(self, response: httpx.Response) -> None:
        request = response.request
        super().__init__(f"{request.method} {request.url.path}: {response.status_code} {response.text[:2000]}")
        self.response = response


class Client:
    """One user's view of the service."""

    def __init__(self, address: str, token: str, *, timeout: float = 30) -> None:
        self.address = address
        self.headers = {"Authorization": f"Token {token}"}
        self.http = httpx.Client(base_url=address, headers=self.headers, timeout=timeout, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.http.close()

    def ask(self, method: str, path: str, *, expect: int | Sequence[int] = 200, **options: Any) -> Json:
        """The JSON of an answer with the expected status ({} for none). Raises UnexpectedAnswer."""
        response = self.http.request(method, path, **options)
        if response.status_code not in ([expect] if isinstance(expect, int) else expect):
            raise UnexpectedAnswer(response)
        found: Json = response.json() if response.content else {}
        return found

    def chat(self, **fields: object) -> str:
        """The id of a new chat."""
        return str(self.ask("POST", "/api/chats", json=fields, expect=201)["id"])

    def post_run(
        self,
        chat_id: str,
        text: str | None = None,
        *,
        expect: int | Sequence[int] = 202,
        headers: Mapping[str, str] | None = None,
        **fields: object,
    ) -> Json:
        body = {**({} if text is None else {"text": text}), **fields}
        return self.ask("POST", f"/api/chats/{chat_id}/runs", json=body, headers=headers, expect=expect)

    def run(self, run_id: str) -> Json:
        return self.ask("GET", f"/api/runs/{run_id}")

    def steps(self, run_id: str) -> list[Json]:
        return list(self._pages(f"/api/runs/{run_id}/steps"))

    def stop(self, run_id: str) -> Json:
        return self.ask("POST", f"/api/runs/{run_id}/stop")

    def stop_chat(self, chat_id: str, **fields: object) -> Json:
        return self.ask("POST", f"/api/chats/{chat_id}/stop", json=fields)

    def messages(self, chat_id: str) -> list[Json]:
        """Oldest first."""
        return list(self._pages(f"/api/chats/{chat_id}/messages"))

    def message(self, run: Json) -> Json:
        """The assistant message a run writes."""
        return next(message for message in self.messages(run["chat_id"]) if message["id"] == run["message_id"])

    def wait_terminal(self, run_id: str, seconds: float = 30) -> Json:
        return self.wait_run(run_id, lambda run: run["status"] in TERMINAL, seconds)

    def wait_status(self, run_id: str, status: str, seconds: float = 30) -> Json:
        return self.wait_run(run_id, lambda run: run["status"] == status, seconds)

    def wait_run(self, run_id: str, wanted: Callable[[Json], bool], seconds: float = 30) -> Json:
        """Asks again and again, also while the service is down; the run as it is once it is as wanted."""
        deadline = time.monotonic() + seconds
        run: Json = {}
        while time.monotonic() < deadline:
            try:
                run = self.run(run_id)
            except (httpx.TransportError, UnexpectedAnswer) as error:
                run = {"error": str(error)}
            else:
                if wanted(run):
                    return run
            time.sleep(0.05)
        raise AssertionError(f"After {seconds} s the run is {run}")

    def follow(self, run: Json, **options: Any) -> Reader:
        """A reader of the run's stream, reading already."""
        return Reader(options.pop("address", self.address), run["stream_url"], self.headers, **options)

    def _pages(self, path: str) -> Iterator[Json]:
        page = self.ask("GET", path, params={"limit": 200})
        while True:
            yield from page["results"]
            if not page["next"]:
                return
            page = self.ask("GET", page["next"])
