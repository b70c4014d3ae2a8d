"""Errors that a user can act on."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: says what was given, what was allowed and what to do next.

    The command line prints its text without a stack trace and exits with status 2.

    Example:
        >>> from bcl import MemorizationTracker
        >>> try:
        ...     MemorizationTracker(3, momentum=1.0)
        ... except InputError as error:
        ...     print(error)
        momentum must lie in [0, 1), got 1.0; the paper uses 0.97.
    """


class InputWarning(UserWarning):
    """Input that works, but hardly as it was meant; a run that `bcl fit` trains notes it."""


class Interrupted(KeyboardInterrupt):
    """A run that a signal ended in good order; ``status`` is its exit status."""

    def __init__(self, text: str, number: int) -> None:
        super().__init__(text)
        self.status = 128 + number


def unknown_name(kind: str, name: str, allowed: Iterable[str]) -> InputError:
    """Build the error for an unknown name of a ``kind``; it suggests the nearest allowed one.

    Example:
        >>> print(unknown_name("policy", "monoton", ["reference", "monotone"]))
        unknown policy 'monoton'; did you mean 'monotone'? Known: monotone, reference
    """
    names = sorted(allowed)
    lower = {each.lower(): each for each in names}
    close = difflib.get_close_matches(str(name).lower(), lower, n=1, cutoff=0.6)
    hint = f"; did you mean '{lower[close[0]]}'?" if close else "."
    known = f" Known: {', '.join(names)}" if len(names) <= 40 else f" {len(names)} are known."
    return InputError(f"unknown {kind} '{name}'{hint}{known}")


def lost_worker(cause: str) -> InputError:
    """A process that decodes images ended before its work."""
    return InputError(
        f"a process that decodes images was lost ({cause}), perhaps because memory or /dev/shm is "
        "full; use fewer with data.workers."
    )


def find_input_error(error: BaseException) -> InputError | None:
    """Find the `InputError` among an exception's causes; a worker lost by torch counts as one."""
    each: BaseException | None = error
    while each is not None:
        if isinstance(each, InputError):
            return each
        if isinstance(each, RuntimeError) and str(each).startswith("DataLoader worker (pid"):
            cause = str(each).split(". ")[0].rstrip(".")
            return lost_worker(cause)
        each = each.__cause__ or each.__context__
    return None
