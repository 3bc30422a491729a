"""Advisory locks of the database, for what has no row that could be locked."""

import hashlib

from django.db import connection


def lock(*name: object) -> None:
    """Waits until nobody else holds the lock of this name, and holds it until the transaction ends."""
    digest = hashlib.sha256(":".join(map(str, name)).encode()).digest()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [int.from_bytes(digest[:8], "big", signed=True)])
