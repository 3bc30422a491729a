"""What can go wrong with a run, as far as a caller has to tell it apart."""

from uuid import UUID


class RunError(Exception):
    """The root of them all."""


class LeaseLost(RunError):
    """A holder's write matched nothing: the run is somebody else's by now, or gone. Caught once, in the executor."""


class RunAlreadyActive(RunError):
    """The chat has an active run; `run_id` is that one."""

    def __init__(self, run_id: UUID) -> None:
        super().__init__(str(run_id))
        self.run_id = run_id


class RunIdTaken(RunError):
    """The client chose an id that another run has."""
