"""``prescore`` and ``python -m materialize``: the command line, imported where Ctrl-C is already understood."""

from __future__ import annotations

import sys

from materialize.cli import interrupt


def main() -> None:
    """Run the command line; exit codes are in ``docs/cli.md``."""
    with interrupt.remembered():
        try:
            from materialize.cli.main import main as run  # noqa: PLC0415 - takes half a second

            run()
        except KeyboardInterrupt:
            print(interrupt.MESSAGE, file=sys.stderr)  # noqa: T201 - nothing better is imported yet
            sys.exit(interrupt.EXIT_CODE)


if __name__ == "__main__":
    main()
