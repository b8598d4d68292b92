"""What is kept of a run, where, and what becomes of one that is there."""

from pathlib import Path

import click

from distill.flags.together import together

record = click.option(
    "--record",
    type=click.Choice(["off", "ids", "ids+logprobs"]),
    default="ids",
    show_default=True,
    help="What the log keeps of each completion beside its text.",
)
log = together(
    click.option(
        "--log-dir",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        show_default="a new folder under ~/.local/state/distill",
        help="Where the trace goes.",
    ),
    click.option(
        "--resume",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="RUN",
        help="Go on with the run in this log folder that was cut off; only calls that its log "
        "does not have are asked. FOLDER#ID names one of several.",
    ),
    click.option(
        "--replay-answers",
        type=click.Choice(["log", "worker"]),
        default="log",
        show_default=True,
        help="Of --supervisor replay:RUN: whether worker calls get what they got (nothing is sent) "
        "or a worker is asked, to compare it with the recorded one under the same code.",
    ),
    click.option("--label", metavar="TEXT", help="A label for the run, in the log."),
    click.option(
        "--redact",
        multiple=True,
        metavar="NAME|re:EXPRESSION",
        help="Blot out of all that is written what this finds (repeatable): email, phone, card, "
        "iban, ip, secret, or an expression of your own. Such a run can't be resumed or replayed.",
    ),
    click.option(
        "--otlp",
        metavar="URL",
        help="Send the run's spans to this OpenTelemetry collector (OTLP over HTTP) as it goes, "
        "for example http://localhost:4318.",
    ),
    click.option(
        "--otlp-content", is_flag=True, help="With --otlp: send the texts of the run, too."
    ),
)
