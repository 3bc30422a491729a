"""Owns the folder that arms the failpoints of a cluster's processes; see `runs.failpoints`."""

from pathlib import Path
from typing import Literal

from config.processes import wait_until

Act = Literal["kill", "raise", "wait"]


class Failpoints:
    """The first process that comes by an armed failpoint is the one that breaks there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def env(self) -> dict[str, str]:
        return {"PERDURE_FAILPOINTS": str(self.folder)}

    def arm(self, name: str, act: Act, *, after: int = 0) -> None:
        """`after` that many passes."""
        (self.folder / name).with_suffix(".reached").unlink(missing_ok=True)
        draft = self.folder / "draft"
        draft.write_text(f"{act} {after}")
        draft.replace(self.folder / name)

    def disarm(self, *names: str) -> None:
        """These, or all; whoever waits at one goes on."""
        for armed in [self.folder / name for name in names] or list(self.folder.iterdir()):
            armed.unlink(missing_ok=True)

    def wait_broken(self, name: str, seconds: float = 20) -> None:
        """Until somebody was killed, or raised, at this point."""
        assert wait_until(lambda: not (self.folder / name).exists(), seconds), f"nobody came by {name}"

    def wait_reached(self, name: str, seconds: float = 20) -> None:
        """Until somebody waits at this point."""
        reached = (self.folder / name).with_suffix(".reached")
        assert wait_until(reached.exists, seconds), f"nobody came by {name}"
