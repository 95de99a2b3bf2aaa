"""Policies to compare with, each from the rules that its product or paper states."""

from __future__ import annotations

from benchmarks.simulate.policies.clipper import Clipper
from benchmarks.simulate.policies.cork import Hold, cork, fitted_cork
from benchmarks.simulate.policies.deadline_fit import DeadlineFit
from benchmarks.simulate.policies.deferred import Deferred
from benchmarks.simulate.policies.eager_greedy import EagerGreedy
from benchmarks.simulate.policies.early_drop import EarlyDrop
from benchmarks.simulate.policies.single import Single
from benchmarks.simulate.policies.timeout import timeout

__all__ = [
    "Clipper",
    "DeadlineFit",
    "Deferred",
    "EagerGreedy",
    "EarlyDrop",
    "Hold",
    "Single",
    "cork",
    "fitted_cork",
    "timeout",
]
