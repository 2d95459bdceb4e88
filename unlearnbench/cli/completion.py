"""What a shell completes: names from entry-point metadata. Nothing is imported for it."""

from __future__ import annotations

from collections.abc import Callable

import click
from click.shell_completion import CompletionItem

from unlearnbench import plugins

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def names_of(*kinds: str, several: bool = False) -> Complete:
    """Completes the registered names of these kinds (keys of `plugins.GROUPS`).

    `several`: of a list with commas, its last part.
    """

    def complete(
        context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        before, comma, last = incomplete.rpartition(",") if several else ("", "", incomplete)
        taken = set(before.split(","))
        known = sorted({p.name for kind in kinds for p in plugins.plugins(kind)} - taken)
        found = [n for n in known if n.startswith(last)]
        return [CompletionItem(f"{before}{comma}{name}") for name in found]

    return complete
