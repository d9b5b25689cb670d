"""What a user did wrong, said in one sentence that tells what to do."""


class UserError(ValueError):
    """A mistake that the user can correct; the command line prints it as one line and exits with 2.

    `rank` is that of the process that raised it, where several train together and have met.
    """

    rank: int | None = None


class Elsewhere(UserError):
    """An error that another process says."""
