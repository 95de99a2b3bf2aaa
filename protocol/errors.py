"""The one tree of errors, and the one table from wire code to class.

    PacelineError
    ├── RequestError                 answers one request; has code, HTTP status, retryable
    │   ├── InvalidInput             400  a tensor or body is not what the method takes
    │   ├── InvalidParameter         400  a deadline, method, name or option is wrong
    │   ├── Unauthorized             401
    │   ├── Forbidden                403
    │   ├── ModelNotFound            404
    │   ├── VersionNotFound          404
    │   ├── TooLarge                 413
    │   ├── UnsupportedMediaType     415  a content type or encoding that is not read here
    │   ├── ModelRejectedInput       422  the model itself refused this request alone
    │   ├── PoisonInput              422  this request kills workers
    │   ├── QueueFull                429
    │   ├── Quota                    429
    │   ├── ModelError               500  user code raised
    │   ├── Internal                 500  our code failed
    │   ├── InfeasibleNow            503  cannot meet its deadline under the present load
    │   ├── Draining                 503
    │   ├── NoWorker                 503
    │   ├── WorkerLost               503  started as often as allowed, then the worker died
    │   └── DeadlineExceeded         504
    ├── ProtocolError                bytes on a wire that are not a message
    ├── StoreError                   the model store: exists, corrupt, untrusted, full
    ├── ConfigError                  paceline.toml, environment or flags
    └── StartError                   a server that cannot start: port, run directory, load

A request's error crosses processes as (code, message, retry_after_s) and nothing else.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable


class PacelineError(Exception):
    """Root of everything Paceline raises on purpose."""


class RequestError(PacelineError):
    """One request's terminal error: `message` says what was given, what was expected, what to do.

    `retry_after_s` (seconds) is set where waiting helps; it becomes HTTP's Retry-After.
    """

    code: ClassVar[str]
    http_status: ClassVar[int]
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s


class InvalidInput(RequestError):
    code, http_status = "invalid_input", 400


class InvalidParameter(RequestError):
    code, http_status = "invalid_parameter", 400


class Unauthorized(RequestError):
    code, http_status = "unauthorized", 401


class Forbidden(RequestError):
    code, http_status = "forbidden", 403


class ModelNotFound(RequestError):
    code, http_status = "model_not_found", 404


class VersionNotFound(RequestError):
    code, http_status = "version_not_found", 404


class TooLarge(RequestError):
    code, http_status = "too_large", 413


class UnsupportedMediaType(RequestError):
    code, http_status = "unsupported_media_type", 415


class ModelRejectedInput(RequestError):
    code, http_status = "model_rejected_input", 422


class PoisonInput(RequestError):
    code, http_status = "poison_input", 422


class QueueFull(RequestError):
    code, http_status, retryable = "queue_full", 429, True


class Quota(RequestError):
    code, http_status, retryable = "quota", 429, True


class ModelError(RequestError):
    code, http_status = "model_error", 500


class Internal(RequestError):
    code, http_status = "internal", 500


class InfeasibleNow(RequestError):
    code, http_status, retryable = "infeasible_now", 503, True


class Draining(RequestError):
    code, http_status, retryable = "draining", 503, True


class NoWorker(RequestError):
    code, http_status, retryable = "no_worker", 503, True


class WorkerLost(RequestError):
    code, http_status, retryable = "worker_lost", 503, True


class DeadlineExceeded(RequestError):
    code, http_status = "deadline_exceeded", 504


class ProtocolError(PacelineError):
    """Bytes that are not a message of this protocol. The peer is at fault, never the reader."""


class StoreError(PacelineError):
    """The model store refused or failed; the message names the model and the remedy."""


class ConfigError(PacelineError):
    """A setting is wrong; the message names the key, its origin, and the nearest right key."""


class StartError(PacelineError):
    """A server cannot start; the message names the cause and its owner where visible."""


ERRORS_BY_CODE: dict[str, type[RequestError]] = {
    cls.code: cls
    for cls in (
        InvalidInput,
        InvalidParameter,
        Unauthorized,
        Forbidden,
        ModelNotFound,
        VersionNotFound,
        TooLarge,
        UnsupportedMediaType,
        ModelRejectedInput,
        PoisonInput,
        QueueFull,
        Quota,
        ModelError,
        Internal,
        InfeasibleNow,
        Draining,
        NoWorker,
        WorkerLost,
        DeadlineExceeded,
    )
}


def error_from_code(code: str, message: str, retry_after_s: float | None = None) -> RequestError:
    """The error that `code` names; an unknown code (a newer peer) becomes `Internal` and says so."""
    cls = ERRORS_BY_CODE.get(code)
    if cls is None:
        return Internal(f"{message} (unknown error code {code!r})", retry_after_s=retry_after_s)
    return cls(message, retry_after_s=retry_after_s)


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """`' Did you mean "x"?'` for the nearest of `known`, or an empty string."""
    nearest = get_close_matches(given, list(known), n=1, cutoff=0.5)
    return f' Did you mean "{nearest[0]}"?' if nearest else ""
