"""The process of a command: what `archc` and `python -m archc` start."""

import os
import sys
from contextlib import suppress


def run() -> None:
    """Run the command line; an interrupt while it is imported ends as in a command: without a traceback."""
    try:
        from archc.cli import main

        main()
    except KeyboardInterrupt:
        print("\nAborted!", file=sys.stderr)
        sys.exit(1)
    except SystemExit as ended:
        if isinstance(ended.code, int):
            with suppress(OSError):  # of a reader that is gone, which ends as ever
                _end(ended.code)
        raise


def _end(status: int) -> None:
    """End the process as it is: taking PyTorch and Triton apart takes a second or so."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    run()
