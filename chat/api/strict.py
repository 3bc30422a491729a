"""Fields and serializers that take what the contract says and nothing like it."""

import re
import unicodedata
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from rest_framework import serializers


class TextField(serializers.CharField):
    """Text exactly as it was sent: numbers are not text, and text that shows nothing is blank."""

    def __init__(self, **options: Any) -> None:
        super().__init__(trim_whitespace=False, **options)

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        text: str = super().to_internal_value(data)
        if not self.allow_blank and not _shows_anything(text):
            self.fail("blank")
        return text


def _shows_anything(text: str) -> bool:
    return any(unicodedata.category(character)[0] not in "ZC" for character in text)


class IdField(serializers.UUIDField):
    """A UUID in its canonical form only; neither the nil nor the max one identifies anything."""

    _form = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)

    def to_internal_value(self, data: Any) -> UUID:
        if not isinstance(data, str) or not self._form.fullmatch(data) or set(data.lower()) <= {"-", "0"}:
            self.fail("invalid", value=data if isinstance(data, str) else "")
        value: UUID = super().to_internal_value(data)
        if value.int == 2**128 - 1:
            self.fail("invalid", value=data)
        return value


class StrictSerializer(serializers.Serializer[Any]):
    """Refuses what it does not know, by name."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            unknown = {str(name)[:100]: ["There is no such field."] for name in data if name not in self.fields}
            if unknown:
                raise serializers.ValidationError(unknown)
        return super().to_internal_value(data)


class NoFields(StrictSerializer):
    """For bodies and queries in which nothing may stand."""
