"""The settings file, and what the command line says about it."""

from pathlib import Path

import click

from distill import config_file

config = click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=config_file.take,
    metavar="FILE",
    help="Options from this TOML file, by the names of their flags; what is typed goes before it "
    "(default: ~/.config/distill/config.toml, if it is there).",
)
show_config = click.option(
    "--show-config",
    is_flag=True,
    help="Only print the options in force and where each comes from, as such a file.",
)
