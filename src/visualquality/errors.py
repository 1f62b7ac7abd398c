"""The one error that a user is meant to read, and the errors of other libraries in one line."""


class UserError(ValueError):
    """Something the user gave is wrong. The message is one sentence naming the file, row or field, and the fix.

    The command line prints it without a traceback and exits with status 2.
    """


def missing_extra(what: str, extra: str, error: ImportError) -> UserError:
    """The error that says that `what` needs an extra of this package, and how it is installed.

    >>> print(missing_extra("training", "train", ModuleNotFoundError("No module named 'trl'")))
    training needs packages that are not installed (No module named 'trl'): pip install 'visualquality[train]'
    """
    return UserError(
        f"{what} needs packages that are not installed ({error}): pip install 'visualquality[{extra}]'"
    )


def shortened(text: str, length: int = 80) -> str:
    """What a file holds, for a message about it: cut where it is longer than a line can show."""
    return text if len(text) <= length else f"{text[:length]}… ({len(text):,} characters)"


def first_line(error: BaseException) -> str:
    """The first line of what another library says is wrong, or the kind of error where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
