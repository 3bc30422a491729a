"""The demo model's routes: what is asked, whether a strict provider would take it, and who answers."""

import asyncio
import json
import re
from dataclasses import replace
from time import time

from aiohttp import web

from agents.demo.calls import Call, Calls
from agents.demo.delivery import Delivery, refusal
from agents.demo.directives import DirectiveError, Directives, read_directives
from agents.demo.history import RequestError, check_request, length_of, text_of, tool_names
from agents.demo.moves import Refuse
from agents.demo.scripts import SCRIPTS, Turn, play, step_calls, too_long
from agents.demo.wire import JsonObject

MAX_BODY = 64 * 1024 * 1024
# How long a request may be for `demo-window-4000`: in the name, since nobody directs how a summary is asked for.
WINDOW = re.compile(r"-window-(\d+)\Z")
CALLS = web.AppKey("calls", Calls)


def create_app() -> web.Application:
    app = web.Application(client_max_size=MAX_BODY)
    app[CALLS] = Calls()
    app.router.add_post("/v1/chat/completions", chat_completions)
    app.router.add_get("/v1/models", models)
    app.router.add_get("/stats", stats)
    app.router.add_post("/stats/reset", reset_stats)
    app.router.add_get("/healthz", healthz)
    return app


async def start_server(host: str, port: int) -> web.AppRunner:
    """Listening when this returns, at `runner.addresses[0]`; `runner.cleanup()` takes well under a second."""
    # Handler cancellation makes a client's leaving felt at once, in whatever await the handler sits.
    runner = web.AppRunner(create_app(), handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, host, port, backlog=2048).start()
    return runner


async def healthz(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


async def models(request: web.Request) -> web.Response:
    model = {"id": "demo", "object": "model", "created": 0, "owned_by": "perdure"}
    return web.json_response({"object": "list", "data": [model]})


async def stats(request: web.Request) -> web.Response:
    bulky = request.query.get("messages") != "0"
    return web.json_response(request.app[CALLS].report(request.query.get("key"), bulky=bulky))


async def reset_stats(request: web.Request) -> web.Response:
    request.app[CALLS].clear()
    return web.json_response({"status": "ok"})


async def chat_completions(request: web.Request) -> web.StreamResponse:
    opened_at = time()
    raw = await request.read()
    body = _parse(raw)
    prompt = last_prompt(body)
    try:
        directives = read_directives(prompt)
    except DirectiveError as error:
        return _refuse(request.app[CALLS].open("", raw, opened_at), str(error))
    call = request.app[CALLS].open(directives.key, raw, opened_at)
    try:
        return await _answer(request, call, body, prompt, directives)
    except asyncio.CancelledError:
        call.close("client_closed")
        raise
    except ConnectionError:
        # The write that found the connection gone came before the cancellation that says so.
        call.close("client_closed")
        return web.Response()


def _parse(raw: bytes) -> object:
    try:
        return json.loads(raw)
    except ValueError:
        return None


def last_prompt(body: object) -> str:
    """Also of a request that will be refused, so that its record carries the key."""
    messages = body.get("messages") if isinstance(body, dict) else None
    newest_first = reversed(messages if isinstance(messages, list) else [])
    return text_of(next((message for message in newest_first if _role(message) == "user"), {}))


def _role(message: object) -> object:
    return message.get("role") if isinstance(message, dict) else None


async def _answer(
    request: web.Request, call: Call, unchecked: object, prompt: str, directives: Directives
) -> web.StreamResponse:
    try:
        body = check_request(unchecked)
    except RequestError as error:
        return _refuse(call, str(error))
    if directives.script not in SCRIPTS:
        return _refuse(call, f"There is no script {directives.script!r}.")
    turn = read_turn(body, prompt, directives)
    if not step_calls(turn) and not call.deal(directives.times):
        turn = replace(turn, directives=replace(directives, script="text"))
    call.model, call.script = str(body["model"]), turn.directives.script
    call.step, call.tools = turn.step, turn.offered
    window = WINDOW.search(call.model)
    if window and (length := length_of(body)) > int(window[1]):
        call.script = "overflow"
        call.close("failed", f"{length} tokens")
        return refusal(too_long(int(window[1]), length))
    delivery = Delivery(request, call, turn.directives.rate)
    if body.get("stream"):
        return await delivery.stream(play(turn), with_usage=_wants_usage(body))
    return await delivery.whole(play(turn))


def _wants_usage(body: JsonObject) -> bool:
    options = body.get("stream_options")
    return isinstance(options, dict) and bool(options.get("include_usage"))


def read_turn(body: JsonObject, prompt: str, directives: Directives) -> Turn:
    """The step is read off the history alone, so any process may answer any call."""
    messages = body["messages"]
    assert isinstance(messages, list)
    roles = [_role(message) for message in messages]
    since = len(roles) - 1 - roles[::-1].index("user")
    turn = messages[since + 1 :]
    step = sum(1 for message in turn if message.get("tool_calls"))
    asked = max((at for at, message in enumerate(turn) if message.get("tool_calls")), default=len(turn))
    results = tuple(text_of(message) for message in turn[asked + 1 :])
    opening = text_of(messages[roles.index("user")])
    heard = "\n".join(text_of(message) for message in messages)
    said = next((text_of(message) for message in reversed(messages[:since]) if _role(message) == "assistant"), "")
    return Turn(directives, prompt, step, tool_names(body), results, opening, said, heard)


def _refuse(call: Call, message: str) -> web.Response:
    """A request no strict provider takes; an audit looks for this script name."""
    call.script = "refused"
    call.close("failed", message)
    return refusal(Refuse(400, message, "invalid_request_error", None))
