"""``python -m watcherd``. Imports nothing until it is called: spawned workers import this module again."""

import sys


def main() -> None:
    """Run the command line."""
    from watcherd.cli.app import run

    sys.exit(run())


if __name__ == "__main__":
    main()
