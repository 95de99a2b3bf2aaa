"""`python -m benchmarks.simulate`."""

from benchmarks.simulate.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
