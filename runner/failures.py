"""What an exception of user code means: whose fault it is, what to tell the client, whether the device is lost.

Pure: decides by class and by PyTorch's well-known texts, in the tables below, and imports no torch. Called by the
executor at the edge where user code is run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from paceline.protocol.errors import Internal, InvalidInput, ModelError, ModelRejectedInput, RequestError

MESSAGE_CHARS_MAX = 2000
# Of a longer text only this much is looked at: a model may put a whole tensor or body into its exception.
_TEXT_CHARS_READ = 16_000
# And by this much it is judged: the patterns take quadratic time on a text made to defeat them.
_TEXT_CHARS_JUDGED = 1000


class FailureKind(Enum):
    REJECTED = "rejected"
    MODEL = "model"
    OUT_OF_MEMORY = "out_of_memory"
    OUTPUT = "output"
    JOIN = "join"


# KeyError and IndexError: a missing key of a dict argument, an id beyond an embedding. AttributeError and
# AssertionError are as often the model's own bug, so they stay its error.
_REJECTING_CLASSES = (ValueError, TypeError, LookupError, InvalidInput)

# torch raises these as plain RuntimeError.
_REJECTING_TEXTS = re.compile(
    r"""shapes?\b.*\b(cannot\ be\ multiplied|is\ invalid|are\ not|must|mismatch|does\ not|do\ not)
      | must\ match
      | \bexpect(ed|s)\b.*\b(inputs?|sizes?|shape|dims?|dimensions?|d?types?|tensors?|channels|TensorList)\b
      | \bsizes?\ (of|must|mismatch)\b
      | size\ mismatch
      | \bmust\ (be|have)\b.*\b(dims?|dimensions?|dtype|type|shape|sizes?|matrix|matrices|vector|tensors?|equal)\b
      | \bshould\ contain\b
      | \bout\ of\ (bounds|range)\b
      | dimension.*\b(does\ not\ match|do\ not\ match|mismatch)
      | output\ size\ is\ too\ small
      | kernel\ size\ can't\ be\ greater
      | cannot\ be\ converted\ to\ scalar
      | (can't|cannot)\ be\ cast
      | could\ not\ infer\ output\ dtype
      | but\ got\ .*\bdtype\b
      | floating\ point\ dtype
      | bool\ tensors
      | corresponding\ input\ dimension
      | not\ implemented\ for\ '
      | ^Input\ Error:
      | only\ applicable\ to
      | ^linalg\.
      | subscript
      | probability\ tensor\ contains
    """,
    re.IGNORECASE | re.VERBOSE,
)

_MEMORY_TEXTS = (
    "out of memory",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)

# A sticky error is one that every later call of the process gets too. Only a RuntimeError that starts like the
# driver's own counts: a client's text that a model echoes in its exception must not end the worker.
_DEVICE_PREFIXES = ("CUDA error:", "CUDA driver error:", "HIP error:", "cuDNN error:", "Triton Error [CUDA]:")
_STICKY_TEXTS = (
    "device-side assert",
    "illegal memory access",
    "illegal address",
    "illegal instruction",
    "misaligned address",
    "invalid program counter",
    "invalid address space",
    "launch failure",
    "launch failed",
    "launch timed out",
    "hardware stack error",
    "uncorrectable",
    "unknown error",
    "driver shutting down",
    "context is destroyed",
    "EXECUTION_FAILED",
    "MAPPING_ERROR",
)

_ADDRESS = re.compile(r"(?: at)? ?\b0x[0-9a-fA-F]{4,}\b")
_SCRIPT_ERROR = re.compile(r"^(?:[\w.]*(?:Error|Exception)): (.*)$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed forward, without its exception: that would keep its frames, and their tensors, alive."""

    kind: FailureKind
    message: str

    def error(self, *, alone: bool) -> RequestError:
        """The answer to each call of the failed forward; only a call that failed `alone` can be called at fault."""
        if self.kind is FailureKind.JOIN:
            return Internal(self.message)
        if self.kind is FailureKind.REJECTED and alone:
            return ModelRejectedInput(self.message)
        return ModelError(self.message)


def failure_of(error: BaseException) -> Failure:
    """What `error`, raised while user code ran, means for the calls that were run."""
    return Failure(_kind(error), describe(error))


def breaks_device(error: BaseException) -> bool:
    """Whether `error` says that the device's context is lost for this process."""
    if not isinstance(error, RuntimeError):
        return False
    text = _text(error)
    return text.startswith(_DEVICE_PREFIXES) and any(sticky in text for sticky in _STICKY_TEXTS)


def describe(error: BaseException) -> str:
    """`type: text` on one line of at most MESSAGE_CHARS_MAX characters, without tracebacks and memory addresses."""
    text = _ADDRESS.sub("", _text(error))
    printable = "".join(char if char.isprintable() else " " for char in text)
    line = " ".join(printable.split())
    name = type(error).__name__
    message = f"{name}: {line}" if line else name
    return message if len(message) <= MESSAGE_CHARS_MAX else message[: MESSAGE_CHARS_MAX - 3] + "..."


def _kind(error: BaseException) -> FailureKind:
    text = _text(error)
    # By name, since only the executor may import torch: torch's is `OutOfMemoryError`, a RuntimeError.
    if isinstance(error, MemoryError) or any(cls.__name__ == "OutOfMemoryError" for cls in type(error).__mro__):
        return FailureKind.OUT_OF_MEMORY
    if isinstance(error, _REJECTING_CLASSES):
        return FailureKind.REJECTED
    if not isinstance(error, RuntimeError):
        return FailureKind.MODEL
    if any(memory in text for memory in _MEMORY_TEXTS):
        return FailureKind.OUT_OF_MEMORY
    return FailureKind.REJECTED if _REJECTING_TEXTS.search(text[:_TEXT_CHARS_JUDGED]) else FailureKind.MODEL


def _text(error: BaseException) -> str:
    try:
        text = str(error)[:_TEXT_CHARS_READ]
    except Exception:  # noqa: BLE001  # user code too: its __str__ is part of the call that failed
        return "(its text cannot be read)"
    if "Traceback of TorchScript" in text:
        # TorchScript puts its traceback into the text; the last line is the error itself.
        last = text.rstrip().rsplit("\n", 1)[-1]
        found = _SCRIPT_ERROR.match(last)
        return found.group(1) if found else last
    # C++ stack, and CUDA's advice on debugging.
    return re.split(r"\nException raised from |\nCUDA kernel errors might|\nCompile with `", text, maxsplit=1)[0]
