"""Every setting of the service, read from the environment once, top to bottom."""

import secrets
from contextlib import suppress
from decimal import Decimal
from pathlib import Path

import environ
import structlog
from csp.constants import NONCE, NONE, SELF
from django.core.exceptions import ImproperlyConfigured

from config.services import recorded_urls, state_folder

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()
environ.Env.read_env(str(BASE_DIR / ".env"))


def _seconds(name: str, default: float) -> float:
    """A duration in seconds, fractions allowed; zero and less make no sense for any of them."""
    value: float = env.float(name, default)
    if not 0 < value < 1e9:
        raise ImproperlyConfigured(f"{name} must be a number of seconds above 0, not {value}.")
    return value


def _count(name: str, default: int, minimum: int = 1) -> int:
    value: int = env.int(name, default)
    if not minimum <= value < 2**31:
        raise ImproperlyConfigured(f"{name} must be a whole number of at least {minimum}, not {value}.")
    return value


def _dollars(name: str) -> Decimal:
    """An amount of money; 0 switches the limit off."""
    text: str = env.str(name, "0")
    try:
        value = Decimal(text)
        if not 0 <= value < 10**6:
            raise ValueError
    except (ArithmeticError, ValueError) as error:
        raise ImproperlyConfigured(f"{name} must be an amount of dollars, not {text}.") from error
    return value


def _secret_key() -> str:
    """The key from the environment or, in development, one generated into the local state folder."""
    key: str = env.str("SECRET_KEY", "")
    if key:
        return key
    if env.str("DATABASE_URL", "") and not DEBUG:
        embedded = recorded_urls()
        if embedded is None or embedded[0] != env.str("DATABASE_URL"):
            raise ImproperlyConfigured("Set SECRET_KEY: a real database is in use and DEBUG is off.")
    path = state_folder() / "secret_key"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{secrets.token_hex(4)}")
        fresh.touch(mode=0o600)
        fresh.write_text(secrets.token_urlsafe(50))
        # The first of several processes starting at once wins; the others read its key.
        with suppress(FileExistsError):
            path.hardlink_to(fresh)
        fresh.unlink()
    return path.read_text()


# Django

DEBUG = env.bool("DEBUG", False)
SECRET_KEY = _secret_key()
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])
SECURE_SSL = env.bool("SECURE_SSL", False)
PORT = _count("PORT", 8000)

ROOT_URLCONF = "config.urls"
ASGI_APPLICATION = "config.asgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
APPEND_SLASH = False
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "index"
LOGOUT_REDIRECT_URL = "login"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.postgres",
    "django.contrib.sessions",
    "servestatic.runserver_nostatic",
    "django.contrib.staticfiles",
    "csp",
    "django_structlog",
    "rest_framework",
    "knox",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "config",
    "agents",
    "chat",
    "runs",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_structlog.middlewares.RequestMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
# Serves straight from the apps when nobody ran collectstatic, as `make demo` does not.
SERVESTATIC_USE_FINDERS = True

# What goes over the wire

SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin" if SECURE_SSL else None
SECURE_SSL_REDIRECT = SECURE_SSL
SECURE_HSTS_SECONDS = 31_536_000 if SECURE_SSL else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_SSL
SECURE_HSTS_PRELOAD = SECURE_SSL
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if SECURE_SSL else None
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
X_FRAME_OPTIONS = "DENY"
CSRF_FAILURE_VIEW = "config.urls.csrf_failure"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "script-src": [SELF, NONCE],
        "img-src": [SELF, "data:"],
        "connect-src": [SELF],
        "object-src": [NONE],
        "base-uri": [NONE],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
    },
}

# Postgres and Redis

# Entry points start the embedded servers and put their addresses into the environment (`config.services`). A
# process that never connects, such as a linter, gets by on the addresses recorded last, or on none.
_recorded = recorded_urls() or ("postgresql://postgres@localhost/perdure", "redis://localhost:6379/0")
REDIS_URL = env.str("REDIS_URL", _recorded[1])
DATABASES = {"default": env.db_url("DATABASE_URL", _recorded[0])}
DATABASES["default"] |= {
    "CONN_MAX_AGE": 0,
    "OPTIONS": {
        **DATABASES["default"].get("OPTIONS", {}),
        "connect_timeout": 5,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 20_000,
        "options": "-c statement_timeout=10s -c lock_timeout=3s -c idle_in_transaction_session_timeout=15s",
    },
}

# Only the web process pools: a request has a thread of its own there, and closing is returning. Worker threads keep
# their connection, and Celery's fixup closes a pool at every task (celery#10554).
if env.bool("PERDURE_WEB", False):
    # A server that was restarted leaves dead connections in the pool: none of them is handed to a request.
    DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
    DATABASES["default"]["OPTIONS"]["pool"] = {"min_size": 2, "max_size": 10, "timeout": 3}

# Celery

# Runs

# The lifecycle feed is the library's protocol alone, see runs/feed_stream.py.
EVENTSTREAM_CHANNELMANAGER_CLASS = "runs.feed_stream.OwnChannel"
EVENTSTREAM_STORAGE_CLASS = "runs.feed_stream.Forgetful"

RUN_CONCURRENCY = _count("RUN_CONCURRENCY", 100)
RUN_HEARTBEAT_SECONDS = _seconds("RUN_HEARTBEAT_SECONDS", 5)
RUN_STALE_SECONDS = _seconds("RUN_STALE_SECONDS", 30)
RUN_SWEEP_SECONDS = _seconds("RUN_SWEEP_SECONDS", 10)
RUN_MAX_ATTEMPTS = _count("RUN_MAX_ATTEMPTS", 3)
RUN_MAX_STEPS = _count("RUN_MAX_STEPS", 20)
RUN_MAX_TOKENS = _count("RUN_MAX_TOKENS", 0, minimum=0)
RUN_MAX_COST_USD = _dollars("RUN_MAX_COST_USD")
RUN_TIMEOUT_SECONDS = _seconds("RUN_TIMEOUT_SECONDS", 3600)
MODEL_STALL_SECONDS = _seconds("MODEL_STALL_SECONDS", 120)
RUN_LOG_TTL_SECONDS = _seconds("RUN_LOG_TTL_SECONDS", 3600)
RUN_FLUSH_MS = _seconds("RUN_FLUSH_MS", 25)
LIMIT_ACTIVE_RUNS = _count("LIMIT_ACTIVE_RUNS", 500, minimum=0)
LIMIT_STARTS_PER_MINUTE = _count("LIMIT_STARTS_PER_MINUTE", 1000, minimum=0)
LIMIT_STREAMS = _count("LIMIT_STREAMS", 500, minimum=0)
LIMIT_STREAMS_PER_MINUTE = _count("LIMIT_STREAMS_PER_MINUTE", 3000, minimum=0)
LIMIT_LOGINS_PER_MINUTE = _count("LIMIT_LOGINS_PER_MINUTE", 10, minimum=0)
MESSAGE_MAX_BYTES = _count("MESSAGE_MAX_BYTES", 1_048_576)

if RUN_STALE_SECONDS < 3 * RUN_HEARTBEAT_SECONDS:
    raise ImproperlyConfigured("RUN_STALE_SECONDS must be at least three times RUN_HEARTBEAT_SECONDS.")
if RUN_TIMEOUT_SECONDS < RUN_STALE_SECONDS:
    raise ImproperlyConfigured("RUN_TIMEOUT_SECONDS must not be shorter than RUN_STALE_SECONDS.")

AGENT_MODEL = env.str("AGENT_MODEL", "openai/demo")
AGENT_MODELS = env.list("AGENT_MODELS", default=[AGENT_MODEL])
AGENT_API_BASE = env.str("AGENT_API_BASE", "") or None
AGENT_CONTEXT_TOKENS = _count("AGENT_CONTEXT_TOKENS", 0, minimum=0)
AGENT_CLIENT = env.str("AGENT_CLIENT", "own")
if AGENT_CLIENT not in ("own", "litellm"):
    raise ImproperlyConfigured(f"AGENT_CLIENT must be own or litellm, not {AGENT_CLIENT}.")

CELERY_BROKER_URL = REDIS_URL
CELERY_BROKER_TRANSPORT = "config.broker:Transport"
CELERY_RESULT_BACKEND = None
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_DEFAULT_QUEUE = "ops"
CELERY_TASK_ROUTES = {"runs.execute_run": {"queue": "runs"}}
# The row decides what runs again, never a redelivery: a message is gone once it was received.
CELERY_TASK_ACKS_LATE = False
CELERY_TASK_PUBLISH_RETRY_POLICY = {"max_retries": 2, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.5}
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_BROKER_TRANSPORT_OPTIONS = {
    # Without a socket timeout a hung Redis blocks a publisher for ever (kombu sets none).
    "socket_timeout": 5,
    "socket_connect_timeout": 2,
    "socket_keepalive": True,
    "health_check_interval": 10,
    "visibility_timeout": 7200,
    "global_keyprefix": "celery:",
}
CELERY_WORKER_CONCURRENCY = RUN_CONCURRENCY
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_DISABLE_PREFETCH = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False
CELERY_WORKER_SEND_TASK_EVENTS = False
CELERY_BEAT_SCHEDULE_FILENAME = str(state_folder() / "celerybeat-schedule")
CELERY_BEAT_SCHEDULE = {
    "sweep": {
        "task": "runs.sweep",
        "schedule": RUN_SWEEP_SECONDS,
        # After an outage beat catches up; ticks older than a period are of no use to anybody.
        "options": {"queue": "ops", "expires": max(RUN_SWEEP_SECONDS, 1.0)},
    },
}

# API

DATA_UPLOAD_MAX_MEMORY_SIZE = None  # `config.asgi` limits every body before Django reads it
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "chat.api.authentication.TokenAuthentication",
        "chat.api.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["chat.api.parsing.JSONParser"],
    "DEFAULT_METADATA_CLASS": None,
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "chat.api.parsing.AnyAccept",
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "chat.api.errors.exception_handler",
    "URL_FORMAT_OVERRIDE": None,
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
}
# The table of knox's own model would stand empty, and refer to users all the same.
MIGRATION_MODULES = {"knox": None}
KNOX_TOKEN_MODEL = "chat.Token"  # noqa: S105 (no password)
REST_KNOX = {"TOKEN_TTL": None, "AUTO_REFRESH": False}
SPECTACULAR_SETTINGS = {
    "TITLE": "Perdure",
    "DESCRIPTION": "Durable, detached AI agent runs.",
    "VERSION": "1",
    "OAS_VERSION": "3.2.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    "POSTPROCESSING_HOOKS": ["drf_spectacular.hooks.postprocess_schema_enums", "config.openapi.complete"],
    "COMPONENT_SPLIT_PATCH": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "ENUM_NAME_OVERRIDES": {
        "RunStatus": "runs.models.Run.Status",
        "MessageStatus": "chat.models.Message.Status",
    },
}

# Logs: one JSON line per event on stderr

_SHARED_PROCESSORS: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
]
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "json": {
            "()": structlog.stdlib.ProcessorFormatter,
            "processors": [
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
            "foreign_pre_chain": _SHARED_PROCESSORS,
        },
    },
    "filters": {"without_broken_off": {"()": "config.logs.WithoutBrokenOff"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "root": {"handlers": ["stderr"], "level": env.str("LOG_LEVEL", "INFO")},
    "loggers": {
        "django.server": {"handlers": ["stderr"], "propagate": False},
        # A reader that closes its page is no warning.
        "django_structlog.middlewares.request": {"level": "ERROR", "filters": ["without_broken_off"]},
        "uvicorn.access": {"level": "WARNING"},
        "uvicorn.error": {"filters": ["without_broken_off"]},
        "httpx": {"level": "WARNING"},
        "django_eventstream": {"level": "WARNING"},
        # litellm logs request bodies at INFO and below: other people's text.
        "LiteLLM": {"level": "ERROR"},
    },
}
structlog.configure(
    processors=[
        structlog.stdlib.filter_by_level,
        *_SHARED_PROCESSORS,
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ],
    logger_factory=structlog.stdlib.LoggerFactory(),
    wrapper_class=structlog.stdlib.BoundLogger,
    cache_logger_on_first_use=True,
)
