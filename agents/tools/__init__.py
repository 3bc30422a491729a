"""What an agent can do besides talk: the shape of a tool, and the tools that come with the house."""

from agents.tools.calculator import calculate
from agents.tools.clock import current_time
from agents.tools.errors import ToolError, ToolFailed, ToolInputError, ToolTimeout
from agents.tools.output import Json
from agents.tools.threads import stuck_threads
from agents.tools.tool import Repeat, Tool, ToolContext, tool

BUILT_IN: tuple[Tool, ...] = (current_time, calculate)

__all__ = [
    "BUILT_IN",
    "Json",
    "Repeat",
    "Tool",
    "ToolContext",
    "ToolError",
    "ToolFailed",
    "ToolInputError",
    "ToolTimeout",
    "calculate",
    "current_time",
    "stuck_threads",
    "tool",
]
