"""The error a user can mend."""


class InputError(ValueError):
    """Something given to a command is wrong: a file, a key, a folder.

    The message is one line that says what is wrong, where, and what to do; only tensors that do not
    fit a model are listed below it. Commands print it as `error: …` and exit with status 2; any
    other exception is a bug and keeps its traceback.
    """
