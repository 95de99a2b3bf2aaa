"""One batch through the model: who shares a forward, whom a failure is blamed on, what is run again.

Pure but for the model, which it sees through the `Model` seam: no torch, no clock of its own. Here is the edge at
which whatever user code raises ends: every call gets exactly one outcome. Called by the executor.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeAlias

from paceline.protocol.errors import DeadlineExceeded, RequestError
from paceline.protocol.signature import MethodSpec
from paceline.protocol.tree import Tree
from paceline.runner.calls import BatchRun, Call, DeviceBroken, Outcome
from paceline.runner.failures import Failure, FailureKind, breaks_device, describe, failure_of
from paceline.runner.isolation import Bisection, OutputSearches, SizesTried, Verdict
from paceline.runner.layout import Layout, lay_out
from paceline.runner.rows import BadTree, UnlikeTrees, cut, join

logger = logging.getLogger("paceline.runner")

Clock: TypeAlias = Callable[[], float]


class Model(Protocol):
    """A method of the user's model, on its device."""

    def forward(self, layout: Layout) -> Tree:
        """Make the batch that `layout` describes, call the method once, bring its output to host memory.

        Raises UnlikeTrees, BadTree for an output that cannot be sent, and whatever user code raises.
        """
        ...

    def take(self, nbytes: int) -> memoryview:
        """Writable host memory."""
        ...

    def empty_cache(self) -> None:
        """Give back what memory is held for later: a forward ran out of it."""
        ...

    def is_broken(self) -> bool:
        """Whether the device's context is lost."""
        ...


class Batch:
    """One batch on its way: what has been answered, how often the method ran, what memory held."""

    __slots__ = (
        "_batch_id",
        "_buckets",
        "_calls",
        "_cap",
        "_failures",
        "_forwards",
        "_logged",
        "_model",
        "_now",
        "_outcomes",
        "_searches",
        "_searches_outputs",
        "_sizes",
        "_spec",
    )

    def __init__(
        self,
        spec: MethodSpec,
        model: Model,
        cap: int,
        buckets: Sequence[int],
        calls: Sequence[Call],
        now: Clock,
        batch_id: str,
        searches: OutputSearches,
    ) -> None:
        self._spec = spec
        self._model = model
        self._cap = cap
        self._buckets = buckets
        self._calls = calls
        self._now = now
        self._batch_id = batch_id
        self._searches = searches
        self._searches_outputs: bool | None = None
        self._outcomes: dict[int, Outcome] = {}
        self._forwards = 0
        self._failures = 0
        self._sizes = SizesTried()
        self._logged: set[tuple[str, str, int]] = set()

    def run(self) -> BatchRun:
        for group in self._groups():
            if self._run_part(group) is Verdict.FAILED:
                self._isolate(group)
        if self._searches_outputs:
            self._end_search()
        outcomes = [self._outcomes[index] for index in range(len(self._calls))]
        learn = self._forwards == 1 and self._failures == 0
        return BatchRun(outcomes, learn, self._sizes.cap_rows())

    def _groups(self) -> Iterator[range]:
        """Runs of calls that fit one forward. Usually one: the dispatcher sends batches within the cap, a larger
        request alone, and what is not batchable one by one."""
        start = rows = 0
        for index, call in enumerate(self._calls):
            if index > start and (not self._spec.batchable or rows + call.rows > self._cap):
                yield range(start, index)
                start, rows = index, 0
            rows += call.rows
        yield range(start, len(self._calls))

    def _isolate(self, group: range) -> None:
        plan = Bisection(len(group))
        while (part := plan.next_part()) is not None:
            plan.report(self._run_part(group[part.start : part.stop]))

    def _run_part(self, part: range) -> Verdict:
        """Run the calls of `part` and answer them, unless several of them failed and one of them may be at fault."""
        live = self._live(part)
        if not live:
            return Verdict.UNKNOWN
        verdict = self._run_alone(live[0]) if len(live) == 1 else self._run_together(live)
        if verdict is Verdict.PASSED and (len(live) < len(part) or self._sizes.any_ran_out):
            return Verdict.UNKNOWN
        return verdict

    def _live(self, part: Sequence[int]) -> Sequence[int]:
        """Those calls of `part` that are unanswered and can still be run in time; those that cannot are answered.

        The batch's first forward takes all: the dispatcher decided on it.
        """
        if not self._forwards:
            return part
        now = self._now()
        waiting = [index for index in part if index not in self._outcomes]
        live = [index for index in waiting if now <= self._calls[index].deadline_s]
        for index in waiting:
            if now > self._calls[index].deadline_s:
                self._outcomes[index] = DeadlineExceeded("the deadline passed while the batch was being run in parts")
        return live

    def _run_together(self, indices: Sequence[int]) -> Verdict:
        calls = [self._calls[index] for index in indices]
        results = self._forward([(call.args, call.kwargs) for call in calls], [call.rows for call in calls], calls)
        if not isinstance(results, Failure):
            self._outcomes.update(zip(indices, results))
            if not self._searches_outputs:
                self._searches.passed()
            return Verdict.PASSED
        if self._spec.idempotent and self._may_be_one_calls(results):
            return Verdict.FAILED
        for index in indices:
            self._outcomes[index] = results.error(alone=False)
        return Verdict.UNKNOWN

    def _may_be_one_calls(self, failure: Failure) -> bool:
        """Whether one call of the batch may be at fault, so that looking for it makes sense."""
        if failure.kind is FailureKind.OUTPUT:
            if self._searches_outputs is None:
                self._searches_outputs = self._searches.makes_sense()
            return self._searches_outputs
        return failure.kind is not FailureKind.JOIN

    def _end_search(self) -> None:
        outcomes = [each for each in self._outcomes.values() if not isinstance(each, DeadlineExceeded)]
        at_fault = sum(isinstance(outcome, RequestError) for outcome in outcomes)
        self._searches.ended(at_fault, len(outcomes) - at_fault)

    def _run_alone(self, index: int) -> Verdict:
        """Run one call, in pieces where it has more rows than one forward takes or memory holds."""
        call = self._calls[index]
        rows = call.rows if self._spec.batchable else 1
        whole: Tree = (call.args, call.kwargs)
        piece_rows, start, pieces = min(rows, self._cap), 0, []
        while start < rows:
            if not self._live([index]):
                return Verdict.UNKNOWN
            stop = min(start + piece_rows, rows)
            piece = whole if stop - start == rows else cut(whole, start, stop, self._spec.batch_dim[0])
            results = self._forward([piece], [stop - start], [call])
            if not isinstance(results, Failure):
                pieces += results
                start = stop
            elif results.kind is FailureKind.OUT_OF_MEMORY and stop - start > 1 and self._spec.idempotent:
                piece_rows = (stop - start) // 2
            else:
                self._outcomes[index] = results.error(alone=True)
                return Verdict.FAILED
        self._outcomes[index] = pieces[0] if len(pieces) == 1 else self._joined(pieces, call)
        return Verdict.PASSED

    def _joined(self, pieces: Sequence[Tree], call: Call) -> Outcome:
        try:
            return join(pieces, self._spec.batch_dim[1], self._model.take)
        except UnlikeTrees as error:
            return self._bad_output(error, [call]).error(alone=True)

    def _forward(self, trees: Sequence[Tree], counts: Sequence[int], calls: Sequence[Call]) -> list[Tree] | Failure:
        """Call the method once: the results for `trees`, whose tensors have `counts` rows, or why there are none."""
        self._forwards += 1
        layout = lay_out(self._spec, self._buckets, trees, counts)
        output = self._guarded(layout, calls)
        if isinstance(output, Failure):
            self._failures += 1
            if output.kind is FailureKind.OUT_OF_MEMORY:
                # Not in _guarded: as long as the exception lives, its frames hold the memory that is to be given back.
                self._model.empty_cache()
                self._sizes.ran_out(layout.rows)
            return output
        self._sizes.passed(layout.rows)
        try:
            return layout.results(output)
        except BadTree as error:
            return self._bad_output(error, calls)

    def _guarded(self, layout: Layout, calls: Sequence[Call]) -> Tree | Failure:
        """The method's output for `layout`'s batch, in host memory. Nothing that user code raises goes further."""
        try:
            return self._model.forward(layout)
        except UnlikeTrees as error:
            logger.error("batch of unlike calls", extra=self._log_fields(calls, str(error)))
            return Failure(FailureKind.JOIN, f"calls of one batch differ: {error}")
        except BadTree as error:
            return self._bad_output(error, calls)
        # KeyboardInterrupt and SystemExit too: signal handlers set flags in this process, so only user code raises
        # them, and a model must not end the worker by calling sys.exit().
        except BaseException as error:
            if breaks_device(error) or self._model.is_broken():
                raise DeviceBroken(describe(error)) from error
            failure = failure_of(error)
            self._log(error, failure, calls)
            return failure

    def _bad_output(self, error: BadTree, calls: Sequence[Call]) -> Failure:
        self._failures += 1
        message = f"method {self._spec.name!r}: {error}"
        if self._is_new_site(("output", "", 0)):
            logger.error("model output refused", extra=self._log_fields(calls, message))
        return Failure(FailureKind.OUTPUT, message)

    def _log(self, error: BaseException, failure: Failure, calls: Sequence[Call]) -> None:
        """Log the traceback, once for each place that raises, however many parts of the batch fail there."""
        if not self._is_new_site(_raise_site(error)):
            return
        fields = self._log_fields(calls, failure.message)
        if failure.kind is FailureKind.OUT_OF_MEMORY:
            logger.warning("batch ran out of memory", extra=fields)  # a record with the traceback would hold the memory
        else:
            logger.error("model call failed", exc_info=error, extra=fields)

    def _is_new_site(self, site: tuple[str, str, int]) -> bool:
        known = site in self._logged
        self._logged.add(site)
        return not known

    def _log_fields(self, calls: Sequence[Call], message: str) -> dict[str, object]:
        return {
            "method": self._spec.name,
            "batch_id": self._batch_id,
            "request_ids": [call.request_id for call in calls],
            "rows": sum(call.rows for call in calls),
            "error": message,
        }


def _raise_site(error: BaseException) -> tuple[str, str, int]:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return type(error).__qualname__, "", 0
    return type(error).__qualname__, trace.tb_frame.f_code.co_filename, trace.tb_lineno
