"""The command line: one file a command, each imported when it is called."""

from __future__ import annotations

import importlib
import io
import os
import sys
from contextlib import suppress
from traceback import format_exception
from types import TracebackType
from typing import Any

import click

from unlearnbench import plugins
from unlearnbench.cli.interruption import end_in_order, exit_code
from unlearnbench.cli.output import discard_output
from unlearnbench.errors import PluginError, UserError
from unlearnbench.plain_text import without_secrets

#: Our own commands and the line that `--help` shows without importing them.
COMMANDS = {
    "run": "Run methods on tasks and write result files.",
    "plan": "Show the jobs of a study, with the memory and time each will need.",
    "sweep": "Search hyperparameters, with as many trials for each method.",
    "list": "List the installed methods, tasks, models and suites.",
    "info": "Show one plugin: options, defaults, source.",
    "new": "Write the package of a new method, task or probe, ready to install.",
    "check": "Try the contract of a method, task or probe, rule by rule.",
    "validate": "Check result files and recompute their numbers.",
    "compare": "Say whether two results differ, metric by metric.",
    "reference": "Train the reference models that a task unlearns from.",
    "cache": "Show what is kept between runs, or remove it.",
}


class _Misused(click.ClickException):
    """A usage error in one line, as every other mistake; click would show the usage as well."""

    exit_code = click.UsageError.exit_code

    def __init__(self, error: click.UsageError) -> None:
        where = f" See `{error.ctx.command_path} --help`." if error.ctx else ""
        super().__init__(f"{error.format_message()}{where}")


class SuiteGroup(click.Group):
    """Our commands, then those of plugins; a user's mistake is one line, without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *sorted({p.name for p in plugins.plugins("command")} - set(COMMANDS))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            module = importlib.import_module(f"unlearnbench.cli.{cmd_name}")
            command = module.command
        elif any(p.name == cmd_name for p in plugins.plugins("command")):
            try:
                command = plugins.load("command", cmd_name)
            except PluginError as error:
                raise click.ClickException(str(error)) from error
        else:
            return None
        if not isinstance(command, click.Command):
            raise click.ClickException(f'command "{cmd_name}" is not a click command.')
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        others = [p for p in plugins.plugins("command") if p.name not in COMMANDS]
        # Not `list(...)`: once it is imported, that name in this package is the command's module.
        rows = [*COMMANDS.items(), *((p.name, p.summary()) for p in others)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and name not in self.list_commands(ctx):
            from unlearnbench.errors import unknown_name

            ctx.fail(unknown_name("command", name, self.list_commands(ctx)))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.exceptions.NoArgsIsHelpError:  # shows the help
            raise
        except click.UsageError as error:
            raise _Misused(error) from error
        except UserError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt as error:
            with suppress(OSError):  # the terminal may be gone
                told = ["Interrupted.", *getattr(error, "__notes__", ())]
                click.echo(" ".join(told), err=True)
            ctx.exit(exit_code(error))
        except BrokenPipeError:
            # `unlearnbench list | head`: the reader has left; that is no error of ours.
            discard_output()
            ctx.exit(0)


@click.group(
    cls=SuiteGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example:  unlearnbench run --suite nano --out results",
)
@click.version_option(package_name="unlearnbench")
def cli() -> None:
    """UnlearnBench: unlearning methods and model editors on the same tasks, metrics and tables."""


def _tell_defect(
    kind: type[BaseException], error: BaseException, frames: TracebackType | None
) -> None:
    """A defect's traceback, as Python shows it, without secrets that a library put into it."""
    print(without_secrets("".join(format_exception(kind, error, frames))), end="", file=sys.stderr)


def main() -> None:
    """The console script."""
    # Progress is ours to show; the libraries' own bars would tear it.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # The hub's client warns of every attempt; what comes of the last one is told in one line.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.excepthook = _tell_defect
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ✓ gets a ?, not a traceback
    end_in_order()
    cli()


__all__ = ["COMMANDS", "cli", "main"]
