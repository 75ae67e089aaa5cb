"""Errors that a user can mend."""


class InputError(ValueError):
    """Bad input or configuration: the message names the place, the value and what is allowed."""
