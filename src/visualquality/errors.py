"""The one error that a user is meant to read, and the errors of other libraries in one line."""


class UserError(ValueError):
    """Something the user gave is wrong. The message is one sentence naming the file, row or field, and the fix.

    The command line prints it without a traceback and exits with status 2.
    """


def first_line(error: Exception) -> str:
    """The first line of what another library says is wrong, or the kind of error where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
