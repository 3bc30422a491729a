"""What can go wrong with a run, as far as a caller has to tell it apart."""

from uuid import UUID


class RunError(Exception):
    """The root of them all."""


class BrokenOff(RunError):
    """A stream cannot be completed, and a clean end would be taken for success: the connection is reset."""


class LeaseLost(RunError):
    """A holder's write matched nothing: the run is somebody else's by now, or gone. Caught once, in the executor."""


class RunAlreadyActive(RunError):
    """The chat has an active run; `run_id` is that one."""

    def __init__(self, run_id: UUID) -> None:
        super().__init__(str(run_id))
        self.run_id = run_id


class MessageGone(RunError):
    """The message to be replaced is not in the chat, or was replaced already."""


class RequestMisfit(RunError):
    """The chat as it is does not allow what `field` of the request asks for; the text says why, to people."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field


class RunIdTaken(RunError):
    """The client chose an id that another run has."""


class KeyConflict(RunError):
    """The idempotency key came before, with another request."""


class RoleNotFound(RunError):
    """There is no such role, or not in this workspace."""


class ModelNotAllowed(RunError):
    """AGENT_MODELS does not allow the model that `named_by` names: model (the request itself) or role."""

    def __init__(self, named_by: str) -> None:
        super().__init__(named_by)
        self.named_by = named_by


class TooManyActive(RunError):
    """The person has as many runs at work as anybody may."""


class DayUsedUp(RunError):
    """The person has reached a limit of the day; the text says which, to people."""
