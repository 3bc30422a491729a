"""Promises about time, on machines that are not ours alone."""


class TooSlow(AssertionError):
    """Something came late. A neighbour may have had the processor: pytest measures again, twice, before it believes it
    (`--only-rerun` in pyproject.toml)."""


def in_time(seconds: float, bound: float, *, what: object = "") -> None:
    """Asserts that a measured duration lies under its bound, both in seconds."""
    if not seconds < bound:
        raise TooSlow(f"{seconds:.3f} s, to be under {bound:.3f} s {what}".rstrip())
