"""The web process: Django behind a limit on the size of bodies, and what it does beside answering requests."""

import atexit
import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
os.environ["PERDURE_WEB"] = "1"

from config import services

atexit.register(services.stop, services.ensure())

import django  # noqa: E402
from django.conf import settings  # noqa: E402

django.setup(set_prefix=False)

from config.bodies import BodyLimit  # noqa: E402
from config.handler import Handler  # noqa: E402
from config.lifespan import Lifespan  # noqa: E402
from runs.attached import attachments  # noqa: E402
from runs.database import persistently  # noqa: E402
from runs.witness import witness  # noqa: E402

# A process that ends has as long as its server waits for open streams; this is less.
FAREWELL_SECONDS = 5.0


async def _farewell() -> None:
    await persistently(FAREWELL_SECONDS, attachments.tend)


handler: Any = Handler()
_most = 6 * settings.MESSAGE_MAX_BYTES + 64 * 1024
# AI SDK clients send the whole conversation along (docs/stream.md, "AI SDK routes").
limited = BodyLimit(handler, _most, {"/api/chat": max(_most, 32 * 1024 * 1024)})
application = Lifespan(limited, attachments.release, _farewell)

# A web process may have to judge whether the worker of a chat's run is dead; and it has streams that own runs.
witness.watch(settings.RUN_HEARTBEAT_SECONDS, attachments.tend)
