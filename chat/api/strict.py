"""Fields and serializers that take what the contract says and nothing like it."""

import re
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django.core.validators import RegexValidator
from rest_framework import serializers
from rest_framework.fields import empty

FLOAT_LIMIT = 1e300


# Spaces, control and format characters (categories Z, Cc and Cf of Unicode): a text of these alone shows nothing. What
# this Python does not know yet may be somebody's newest emoji.
_UNSEEN = (
    r"\u0000- \u007f-\u00a0\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u1680\u180e\u2000-\u200f"
    r"\u2028-\u202f\u205f-\u2064\u2066-\u206f\u3000\ufeff\ufff9-\ufffb"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f"
)
# Patterns, in what Python and JavaScript have in common: a character that is seen, and a text that has one.
SHOWING = f"[^{_UNSEEN}]"
VISIBLE_TEXT = rf"^[^\u0000]*{SHOWING}[^\u0000]*$"
# In JSON Schema; PostgreSQL stores none.
WITHOUT_NUL: dict[str, Any] = {"not": {"pattern": r"\u0000"}}
_SHOWS = re.compile(SHOWING)


def shows_anything(text: str) -> bool:
    return _SHOWS.search(text) is not None


class DescribedField:
    """A field that adds to its own description in OpenAPI."""

    def described(self) -> dict[str, Any]:
        raise NotImplementedError


class TextField(DescribedField, serializers.CharField):
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

    def described(self) -> dict[str, Any]:
        if any(isinstance(validator, RegexValidator) for validator in self.validators):
            return {}  # drf-spectacular tells of it
        return WITHOUT_NUL if self.allow_blank else {"pattern": VISIBLE_TEXT}


class CursorField(DescribedField, serializers.CharField):
    """Whatever was sent: what is no cursor is refused with a code of its own, by who looks into it. `shape` is that of
    those that were given out."""

    def __init__(self, shape: Mapping[str, Any]) -> None:
        self._shape = shape
        super().__init__(required=False)

    def run_validation(self, data: Any = empty) -> Any:
        return super().run_validation(data) if data is empty else data

    def described(self) -> dict[str, Any]:
        return dict(self._shape)


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
    """In a body: a whole number, and neither text nor a boolean nor a fraction. `1.0` is one, as in JSON Schema."""

    def to_internal_value(self, data: Any) -> int:
        if type(data) is float and data.is_integer() and abs(data) < FLOAT_LIMIT:
            return int(data)
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
