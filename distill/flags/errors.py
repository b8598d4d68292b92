"""How errors are told."""

import click

show_traceback = click.option(
    "--traceback", "show_traceback", is_flag=True, help="Show where an error came from."
)
