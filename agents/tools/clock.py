"""The tool that tells the time."""

from datetime import datetime
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import Field

from agents.tools.errors import ToolInputError
from agents.tools.tool import Repeat, tool

MAX_ZONE_LENGTH = 64


@tool(repeat=Repeat.SAFE, timeout=5)
def current_time(
    zone: Annotated[str, Field(description="IANA time zone, for example Europe/Paris or UTC")],
) -> dict[str, str]:
    """Tell the current date and time in a time zone."""
    now = datetime.now(_zone(zone))
    return {"zone": zone, "time": now.isoformat(timespec="seconds"), "weekday": now.strftime("%A")}


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown; malformed; a folder such as "Europe"
        shown = name[:MAX_ZONE_LENGTH]
        raise ToolInputError(f"There is no time zone {shown!r}. Give an IANA name such as Europe/Paris.") from None
