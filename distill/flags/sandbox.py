"""What cells may use, and call."""

import click

from distill.flags.together import together

limit = click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="NAME=VALUE",
    help="A limit of the sandbox, for example memory_bytes=4GiB or cell_s=300 (repeatable). "
    "`distill doctor` lists them.",
)
sandbox_package = click.option(
    "--sandbox-package",
    "sandbox_packages",
    multiple=True,
    metavar="NAME",
    help="An installed package that the supervisor's code may import, for example numpy "
    "(repeatable).",
)
sandbox = together(
    limit,
    sandbox_package,
    click.option(
        "--primitive",
        "primitives",
        multiple=True,
        metavar="NAME",
        help="A ready function that the supervisor's code may call (repeatable): search (passages "
        "by words or a regular expression), retrieve (by meaning), supervisor (sub-runs: questions "
        "about parts of the text, each with code of its own).",
    ),
)
"""Of a run."""
tier = click.option(
    "--sandbox",
    type=click.Choice(["auto", "namespaces", "landlock", "none"]),
    default="auto",
    show_default=True,
    metavar="TIER",
    help="How the supervisor's code is confined: the best way that works here, or this one and no "
    "other: namespaces, landlock (for containers), or none, for development only.",
)
"""Of an engine."""
