"""Fields and serializers that take what the contract says and nothing like it."""

import re
import unicodedata
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from rest_framework import serializers

FLOAT_LIMIT = 1e300


class TextField(serializers.CharField):
    """Text exactly as it was sent: numbers are not text, and text that shows nothing is blank."""

    def __init__(self, **options: Any) -> None:
        super().__init__(trim_whitespace=False, **options)

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        text: str = super().to_internal_value(data)
        if not self.allow_blank and not shows_anything(text):
            self.fail("blank")
        return text


class CursorField(serializers.CharField):
    """Whatever was sent: what is no cursor is refused with a code of its own, by who looks into it."""

    def __init__(self) -> None:
        super().__init__(required=False, allow_blank=True, trim_whitespace=False)

    def run_validators(self, value: Any) -> None:
        pass


def shows_anything(text: str) -> bool:
    return any(unicodedata.category(character)[0] not in "ZC" for character in text)


class IdField(serializers.UUIDField):
    """A UUID in its canonical form only; neither the nil nor the max one identifies anything."""

    default_error_messages = {"invalid": "This is not a UUID in its canonical form."}
    _form = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)

    def to_internal_value(self, data: Any) -> UUID:
        if not isinstance(data, str) or not self._form.fullmatch(data):
            self.fail("invalid")
        value: UUID = super().to_internal_value(data)
        if value.int in (0, 2**128 - 1):
            self.fail("invalid")
        return value


class FlagField(serializers.BooleanField):
    """true or false, and none of the words and numbers that DRF takes for one of them."""

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return data


class WholeNumberField(serializers.IntegerField):
    """In a query: decimal digits, and nothing else that int() takes for a number."""

    def to_internal_value(self, data: Any) -> int:
        if not re.fullmatch("0|[1-9][0-9]*", data):
            self.fail("invalid")
        value: int = super().to_internal_value(data)
        return value


class NumberField(serializers.FloatField):
    """In a query: decimal digits with or without a fraction, and nothing else that float() takes for a number."""

    def to_internal_value(self, data: Any) -> float:
        if not re.fullmatch(r"(0|[1-9][0-9]*)(\.[0-9]+)?", data):
            self.fail("invalid")
        value: float = super().to_internal_value(data)
        return value


class CountField(serializers.IntegerField):
    """In a body: a whole number, and neither text nor a boolean nor a fraction."""

    def to_internal_value(self, data: Any) -> int:
        if type(data) is not int:
            self.fail("invalid")
        return data


class AmountField(serializers.FloatField):
    """In a body: a number that is one, and neither text nor a boolean."""

    def to_internal_value(self, data: Any) -> float:
        # A whole number may be too large to become a float; infinity is what JSON makes of 1e999.
        if type(data) not in (int, float) or not -FLOAT_LIMIT < data < FLOAT_LIMIT:
            self.fail("invalid")
        return float(data)


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
