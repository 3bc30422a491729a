"""Owns the proof that a running service works: a run told the same by its stream and its row, and a run stopped."""

import json
from collections.abc import Iterator
from typing import Any

import httpx

Chunk = dict[str, Any]


class SelfCheckFailed(RuntimeError):
    """The service does not do what it should; the message says where."""


def check_service(address: str, token: str) -> None:
    """Raises SelfCheckFailed. Leaves nothing behind when it succeeds."""
    headers = {"Authorization": f"Token {token}"}
    try:
        with httpx.Client(base_url=address, headers=headers, timeout=30, trust_env=False) as client:
            chat = _json(client.post("/api/chats", json={"title": "Self-check"}), 201)
            _finish_a_run(client, chat["id"])
            _stop_a_run(client, chat["id"])
            client.delete(f"/api/chats/{chat['id']}")
    except httpx.HTTPError as error:
        raise SelfCheckFailed(f"{type(error).__name__}: {error}") from error


def _finish_a_run(client: httpx.Client, chat_id: str) -> None:
    # The demo model reads the second word: at once, not at a person's reading speed.
    run = _start(client, chat_id, "Hello rate:0")
    text, last = "", ""
    for chunk in _chunks(client, run["stream_url"]):
        last = chunk["type"]
        if last == "start":
            text = ""
        elif last == "text-delta":
            text += chunk["delta"]
    run = _json(client.get(f"/api/runs/{run['id']}"), 200)
    if last != "finish" or run["status"] != "succeeded":
        raise SelfCheckFailed(f"A run ended as {run['status']} ({run['error'] or run['end_reason']}).")
    messages = _json(client.get(f"/api/chats/{chat_id}/messages"), 200)["results"]
    stored = next(message["text"] for message in messages if message["id"] == run["message_id"])
    if not text or text != stored:
        raise SelfCheckFailed(f"A run streamed {text!r}, but stored {stored!r}.")


def _stop_a_run(client: httpx.Client, chat_id: str) -> None:
    run = _start(client, chat_id, "Tell me something long, and slow, please.")
    # Stopped mid-sentence, where a stop is hardest.
    next((chunk for chunk in _chunks(client, run["stream_url"]) if chunk["type"] == "text-delta"), None)
    _json(client.post(f"/api/runs/{run['id']}/stop"), 200)
    status = _json(client.get(f"/api/runs/{run['id']}/wait", params={"timeout": 20}), 200)["status"]
    if status != "aborted":
        raise SelfCheckFailed(f"A run that was stopped is {status}.")


def _start(client: httpx.Client, chat_id: str, text: str) -> Chunk:
    return _json(client.post(f"/api/chats/{chat_id}/runs", json={"text": text}), 202)


def _chunks(client: httpx.Client, url: str) -> Iterator[Chunk]:
    """The stream to its `[DONE]`; raises httpx.HTTPError when it breaks off before."""
    with client.stream("GET", url) as response:
        if response.status_code != 200:
            raise SelfCheckFailed(f"GET {url} answered {response.status_code}.")
        for line in response.iter_lines():
            data = line.removeprefix("data: ")
            if data == "[DONE]":
                return
            if line.startswith("data: "):
                yield json.loads(data)
    raise SelfCheckFailed(f"GET {url} ended without [DONE].")


def _json(response: httpx.Response, status: int) -> Chunk:
    if response.status_code != status:
        request = response.request
        raise SelfCheckFailed(f"{request.method} {request.url.path} answered {response.status_code}: {response.text}")
    found: Chunk = response.json()
    return found
