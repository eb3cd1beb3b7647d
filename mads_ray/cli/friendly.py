"""What a person sees of a command: plain lines, and errors of one line with an exit code."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from mads_ray.errors import MadsRayError, Stopped
from mads_ray.printable import LONGEST, log_plainly, printable, shortened


def say(text: str, *, error: bool = False) -> None:
    """Print a text. Names and texts of others may be in it."""
    typer.echo(printable(text), err=error)


@contextmanager
def friendly() -> Iterator[None]:
    """Show log lines plainly and make errors one line long.

    Exit codes: 2 for what a user can mend, 130 or 143 for a command that was stopped, 1 for a fault
    of ours, whose traceback is shown.
    """
    log_plainly(logging.WARNING)
    logging.getLogger("mads_ray").setLevel(logging.INFO)
    try:
        yield
    except MadsRayError as e:
        say(f"error: {shortened(str(e))}", error=True)
        raise typer.Exit(2) from e
    except OSError as e:  # a full disk, a folder without write access, a cluster out of reach
        say(f"error: {type(e).__name__}: {shortened(str(e))}", error=True)
        raise typer.Exit(2) from e
    except KeyboardInterrupt as e:
        what, code = (str(e), 143) if isinstance(e, Stopped) else ("interrupted", 130)
        say(f"{what}; the same command goes on where this one stopped", error=True)
        raise typer.Exit(code) from e
    except typer.Exit:
        raise
    except Exception as e:  # a fault of ours: whatever its message holds
        say(shortened(traceback.format_exc(), 10 * LONGEST), error=True)
        raise typer.Exit(1) from e
