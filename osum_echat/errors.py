"""Errors that are meant for the user: what was got, what was expected, where, and what to do.

Entry points in ``bin/`` print a ``UserError`` without a traceback and exit with status 2; everything else is a bug and keeps its traceback.
"""


class UserError(Exception):
    """A message for the user of a command."""


class ConfigError(UserError):
    """A YAML file or an override is wrong; the message names the file, the YAML path and the nearest valid key."""


class CheckpointError(UserError):
    """A checkpoint cannot be read, does not fit the model, or must not be overwritten."""


class DataError(UserError):
    """A list, a label or a recording is wrong.

    Args:
        message: what was got, what was expected and where (``file:line`` or utterance key).
        reason: short snake_case name under which a dropped utterance is counted.
    """

    def __init__(self, message: str, reason: str = "bad_data") -> None:
        super().__init__(message)
        self.reason = reason
