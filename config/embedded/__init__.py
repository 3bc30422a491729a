"""PostgreSQL and Redis as they come in wheels, for a machine that has neither."""

from config.embedded.postgres import EmbeddedPostgres
from config.embedded.redis import EmbeddedRedis
from config.embedded.server import Embedded, ServicesError

__all__ = ["Embedded", "EmbeddedPostgres", "EmbeddedRedis", "ServicesError"]
