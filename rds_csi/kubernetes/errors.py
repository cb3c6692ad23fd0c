"""What the API server refuses, in the words of ``rds_csi.errors`` (Kubernetes API conventions, "HTTP status codes")."""

from rds_csi.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound, Unavailable


class ApiAway(Unavailable):
    """The API server did not answer, or not now: 429, 5xx, no connection, no time."""

    def __init__(self, message: str, *, retry_after: float = 0.0) -> None:
        """``retry_after``: seconds that the server asks to be left alone for."""
        super().__init__(message)
        self.retry_after = retry_after


class Unauthorized(Unavailable):
    """401: the token is not, or not any more, good."""


class Forbidden(FailedPrecondition):
    """403: the ServiceAccount's role lacks a verb, or the namespace is being deleted."""


class NoSuchObject(NotFound):
    """404."""


class Conflict(Aborted):
    """409: the object is there already, or is not as it was when it was read."""


class Expired(Aborted):
    """410: the list that is being paged through is too old to go on."""


class Invalid(InvalidArgument):
    """400 and 422: the server does not take it so; of a JSON patch also: one of its tests does not hold."""
