"""The ground: types, bytes, errors, limits, clock and the request ledger; imports nothing of ours."""
