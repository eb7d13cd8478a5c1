"""The command line, a file a group of commands.

A command imports what it needs when it runs: `check` and `build` touch neither torch nor triton.
"""

from __future__ import annotations

import errno
import os
import sys

import click

from archc import __version__
from archc.cli import (
    analyzing,
    benching,
    building,
    checking,
    designing,
    importing,
    inspecting,
    scaling,
    searching,
    tuning,
)
from archc.errors import ArchcError

_STREAM_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class _Commands(click.Group):
    """A group whose commands answer a user's mistake with its text and exit status 1.

    So is a file that the system refuses where nobody expected it, such as one in a directory of others.
    """

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ArchcError as error:
            click.echo(str(error), err=True)
            sys.exit(1)
        except OSError as error:
            if error.filename is not None:
                click.echo(f"cannot use {error.filename}: {error.strerror}", err=True)
                sys.exit(1)
            if error.errno not in _STREAM_IS_FULL:
                raise
            click.echo(f"cannot write the output: {error.strerror}", err=True)
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is not tried again
            sys.exit(1)


@click.group(cls=_Commands, context_settings=_CONTEXT)
@click.version_option(__version__, prog_name="archc")
def main() -> None:
    """From a model specification to a PyTorch package with specialised Triton kernels.

    \b
    Example:
      archc build specs/llama3.arch --model llama3_8b
    """


for command in (
    checking.check,
    checking.fmt,
    building.build,
    inspecting.ir,
    inspecting.explain,
    inspecting.verify,
    inspecting.kernels,
    importing.import_,
    analyzing.analyze,
    analyzing.diff,
    scaling.scale,
    scaling.fit,
    designing.design,
    searching.search,
    benching.bench,
    tuning.tune,
):
    main.add_command(command)
