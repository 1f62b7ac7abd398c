"""The one error that a user is meant to read."""


class UserError(ValueError):
    """Something the user gave is wrong. The message is one sentence naming the file, row or field, and the fix.

    The command line prints it without a traceback and exits with status 2.
    """
