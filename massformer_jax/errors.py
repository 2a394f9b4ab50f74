"""The error that a user can mend."""


class InputError(ValueError):
    """A mistake in what was given to a command: a file, a key, a folder.

    The message is one line that says what is wrong, where, and what to do. Only lists of files, and
    of tensors that do not fit a model, stand below it. Commands print it as `error: …` and exit
    with status 2; any other exception is a bug and keeps its traceback.
    """
