"""The ``sparsight`` command: subcommands, and what becomes of errors and Ctrl-C."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from sparsight import __version__
from sparsight.cli.app import app_page
from sparsight.cli.attack import attack
from sparsight.cli.audit import audit
from sparsight.cli.bench import bench_speed
from sparsight.cli.blame import blame, blame_stats
from sparsight.cli.chain import chain
from sparsight.cli.diff import trace_diff
from sparsight.cli.display import complain
from sparsight.cli.explain import explain
from sparsight.cli.federate import federate
from sparsight.cli.gallery import gallery
from sparsight.cli.harden import harden
from sparsight.cli.layers import layers
from sparsight.cli.maps import bench_insertion, bench_trojan
from sparsight.cli.models import models
from sparsight.cli.sweep import sweep
from sparsight.cli.trace import trace
from sparsight.cli.tune import tune
from sparsight.cli.visualize import visualize
from sparsight.cli.words import TwoWords
from sparsight.errors import SparsightError

__all__ = ["app", "main"]

_FAILED = 2
_INTERRUPTED = 130

# Some versions of typer bring their own copy of click, so its base error is found by way of typer.
_UsageError: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

app = typer.Typer(
    name="sparsight",
    cls=TwoWords,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(explain)
app.command()(trace)
app.command("trace diff")(trace_diff)
app.command()(visualize)
app.command()(blame)
app.command("blame-stats")(blame_stats)
app.command()(chain)
app.command()(harden)
app.command()(attack)
app.command()(federate)
app.command("app")(app_page)
app.command()(sweep)
app.command()(gallery)
app.command()(audit)
app.command()(models)
app.command()(layers)
app.command("bench speed")(bench_speed)
app.command("bench trojan")(bench_trojan)
app.command("bench insertion")(bench_insertion)
app.command()(tune)


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Keep only the parameters that matter for the question, then look."""
    if version:
        typer.echo(f"sparsight {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    A user's mistake becomes one line on standard error, never a traceback.

    Parameters
    ----------
    arguments
        Without the program's name; those of the process by default.

    Returns
    -------
    int
        Exit code: 0, 2 after an error, 130 after Ctrl-C; that of a command that says more.

    Examples
    --------
    >>> main(["--version"])
    sparsight 0.1.0
    0
    """
    try:
        code = app(args=arguments, prog_name="sparsight", standalone_mode=False)
    except SparsightError as error:
        complain(str(error))
        return _FAILED
    except _UsageError as error:
        complain(f"{error.format_message()} (see sparsight --help)")
        return _FAILED
    except (typer.Abort, KeyboardInterrupt):
        code = _INTERRUPTED
    if code == _INTERRUPTED:
        typer.echo("interrupted", err=True)
    return int(code or 0)


if __name__ == "__main__":
    sys.exit(main())
