"""WHEN: until when a free worker is held back so that a batch can grow. One function, all of the policy on time."""


def hold_until(now: float) -> float:
    """A time up to `now` means: dispatch at once.

    Eager: with one worker the next batch collects for free while it computes, and waiting on top only lengthens the
    cycle (Deb and Serfozo, Optimal control of batch service queues, 1973, with a control limit of 1).
    """
    return now
