"""`python -m stillhouse` is `stillhouse`."""

from stillhouse.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
