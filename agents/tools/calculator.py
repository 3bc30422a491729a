"""The tool that calculates: exact arithmetic over fractions, without eval and within bounds."""

import ast
import operator
from collections.abc import Callable
from decimal import Decimal, InvalidOperation, localcontext
from fractions import Fraction
from typing import Annotated

from pydantic import Field

from agents.tools.errors import ToolInputError
from agents.tools.tool import Repeat, tool

MAX_LENGTH = 500
MAX_NESTING = 50
# Of numerator and denominator each; about 3000 digits, below the length that Python refuses to print.
MAX_BITS = 10_000
MAX_DECIMAL_EXPONENT = 3000
MAX_DECIMAL_PLACES = 50
APPROXIMATE_DIGITS = 30

TOO_LARGE = "The numbers become too large."
OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: lambda left, right: Fraction(left // right),
    ast.Mod: operator.mod,
}


@tool(repeat=Repeat.SAFE, timeout=5)
def calculate(
    expression: Annotated[
        str,
        Field(max_length=MAX_LENGTH, description="Numbers with + - * / // % ** and parentheses, for example 2*(3+4)"),
    ],
) -> str:
    """Calculate the exact value of an arithmetic expression."""
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ToolInputError(f"{expression!r} is not an arithmetic expression.") from None
    try:
        return written(_Evaluation(expression.strip()).value(tree.body, 0))
    except ZeroDivisionError:
        raise ToolInputError("The expression divides by zero.") from None


class _Evaluation:
    """One walk over the syntax tree of `source`; every node that is not arithmetic is refused."""

    def __init__(self, source: str) -> None:
        self._source = source

    def value(self, node: ast.expr, nesting: int) -> Fraction:
        if nesting > MAX_NESTING:
            raise ToolInputError(f"The expression is nested deeper than {MAX_NESTING} levels.")
        match node:
            case ast.Constant():
                return _bounded(self._number(node))
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self.value(operand, nesting + 1)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self.value(operand, nesting + 1)
            case ast.BinOp(left=left, op=sign, right=right):
                # A long sum leans to the left and is no nesting; its depth is bounded by the length.
                return _bounded(_combine(sign, self.value(left, nesting), self.value(right, nesting + 1)))
        raise ToolInputError("Only numbers, + - * / // % ** and parentheses are understood.")

    def _number(self, node: ast.Constant) -> Fraction:
        if type(node.value) is int:
            return Fraction(node.value)
        if type(node.value) is not float:
            raise ToolInputError(f"{node.value!r} is not a number.")
        # From the source: the float that the parser made of 0.1 is not 0.1.
        return _decimal(ast.get_source_segment(self._source, node) or "")


def _decimal(text: str) -> Fraction:
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise ToolInputError(f"{text!r} is not a number.") from None
    # Before the fraction is made: 1e999999999 would take a gigabyte.
    if abs(number.adjusted()) > MAX_DECIMAL_EXPONENT:
        raise ToolInputError(TOO_LARGE)
    return Fraction(number)


def _combine(sign: ast.operator, left: Fraction, right: Fraction) -> Fraction:
    if isinstance(sign, ast.Pow):
        return _power(left, right)
    if isinstance(sign, ast.BitXor):
        raise ToolInputError("Write ** for powers; ^ means something else.")
    if (operation := OPERATORS.get(type(sign))) is None:
        raise ToolInputError("Only + - * / // % ** are understood.")
    return operation(left, right)


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise ToolInputError("An exponent must be a whole number: roots are not exact.")
    # A lower bound of the result's size, so that 9**9**9 is refused before it is computed.
    if (_bits(base) - 1) * abs(exponent.numerator) > MAX_BITS:
        raise ToolInputError(TOO_LARGE)
    return Fraction(base**exponent.numerator)


def _bounded(number: Fraction) -> Fraction:
    if _bits(number) > MAX_BITS:
        raise ToolInputError(TOO_LARGE)
    return number


def _bits(number: Fraction) -> int:
    return max(number.numerator.bit_length(), number.denominator.bit_length())


def written(number: Fraction) -> str:
    """An integer or a short decimal as it is, anything else as a fraction with its approximate value."""
    if number.denominator == 1:
        return str(number.numerator)
    places = _decimal_places(number.denominator)
    if places is not None and places <= MAX_DECIMAL_PLACES:
        return _as_decimal(number, places)
    with localcontext(prec=APPROXIMATE_DIGITS):
        approximation = Decimal(number.numerator) / Decimal(number.denominator)
    return f"{number} (about {approximation})"


def _decimal_places(denominator: int) -> int | None:
    """How many places an exact decimal takes; None if it would never end."""
    twos = (denominator & -denominator).bit_length() - 1
    rest, fives = denominator >> twos, 0
    while rest % 5 == 0:
        rest //= 5
        fives += 1
    return max(twos, fives) if rest == 1 else None


def _as_decimal(number: Fraction, places: int) -> str:
    digits = str(abs(number.numerator) * 10**places // number.denominator).zfill(places + 1)
    return f"{'-' if number < 0 else ''}{digits[:-places]}.{digits[-places:]}"
