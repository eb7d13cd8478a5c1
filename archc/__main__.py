"""The process of a command: what `archc` and `python -m archc` start."""

import sys


def run() -> None:
    """Run the command line; an interrupt while it is imported ends as in a command: without a traceback."""
    try:
        from archc.cli import main

        main()
    except KeyboardInterrupt:
        print("\nAborted!", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run()
