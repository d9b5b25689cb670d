"""The one exception that a user's mistake raises."""


class UserError(ValueError):
    """A mistake of the user's, in one sentence that says what to do; the command line exits with 2."""
