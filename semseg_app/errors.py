"""The one exception that means: the user can fix this."""


class UserError(Exception):
    """A mistake in what was given to us. The message is one line: what is wrong, in which file, and the fix.

    The command line prints it without a traceback and exits with 2; the HTTP API answers 4xx with it.
    """
