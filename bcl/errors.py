"""Errors that a user can act on."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: says what was given, what was allowed and what to do next.

    The command line prints its text alone, without a stack trace, and exits with status 2.
    """


def unknown_name(kind: str, name: str, allowed: Iterable[str]) -> InputError:
    """Build the error for a name that is not known, with the nearest right one.

    Args:
        kind: what the name stands for, such as ``"policy"``.
        name: the name that was given.
        allowed: the names that would have been right.

    Returns:
        The error, to be raised by the caller.

    Example:
        >>> print(unknown_name("policy", "monoton", ["reference", "monotone"]))
        unknown policy 'monoton'; did you mean 'monotone'? Known: monotone, reference
    """
    names = sorted(allowed)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    return InputError(f"unknown {kind} '{name}'{hint} Known: {', '.join(names)}")
