"""A virtual clock that drives the dispatcher and other batching policies: what each serves in time, and what could be.

Run it with `python -m benchmarks.simulate --help`; README.md beside this file shows how to add a policy.
"""
