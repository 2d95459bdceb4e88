"""A command."""

import click


@click.command("example-hello")
@click.argument("name")
def hello(name: str) -> None:
    """Greets somebody."""
    click.echo(f"Hello {name}.")
