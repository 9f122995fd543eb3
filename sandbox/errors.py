"""The one error of this package."""


class SandboxError(Exception):
    """The sandbox cannot do what it was asked to do.

    The first line of the message says what and why; the lines after it, if any, are the end of the
    broker's log. Nothing is left running when it is raised.
    """
