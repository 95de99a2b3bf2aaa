"""`python -m paceline`: the `paceline` command without its script."""

from paceline.cli import main

if __name__ == "__main__":
    main()
