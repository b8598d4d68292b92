"""Who writes the code, how, and for how long."""

import click

from distill.flags.rates import rates
from distill.flags.together import together

supervisor = together(
    click.option(
        "--supervisor",
        metavar="MODEL|local:MODEL|recipe:NAME|replay:RUN",
        show_default="recipe:find",
        help="Who writes the code: an API model; a model of the engine's own (--supervisor-gpus); "
        "a recipe, which needs no key: find (facts), map-reduce (summaries); or a recorded run, "
        "done again from its log: FOLDER, or FOLDER#ID for one of several.",
    ),
    click.option("--base-url", metavar="URL", help="The supervisor's OpenAI-compatible endpoint."),
    rates("supervisor", "the supervisor's endpoint"),
    click.option(
        "--max-iterations",
        type=click.IntRange(min=1),
        default=15,
        show_default=True,
        help="Turns of the supervisor.",
    ),
    click.option(
        "--output-limit",
        type=click.IntRange(min=100),
        metavar="N",
        help="Characters of a cell's output that the supervisor sees (default: 2000; 20000 in the "
        "dialect rlm).",
    ),
    click.option(
        "--show-context-chars",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        metavar="N",
        help="Send a text of at most N characters to the supervisor, which may then answer at "
        "once. 0: it never gets the text, only what its code prints.",
    ),
)
below = together(
    click.option(
        "--max-depth",
        type=click.IntRange(0, 4),
        default=1,
        show_default=True,
        help="Levels of sub-runs below the run; its code starts some with --primitive supervisor "
        "or --dialect rlm.",
    ),
    click.option(
        "--dialect",
        type=click.Choice(["native", "brief", "rlm"]),
        default="native",
        show_default=True,
        help="The names in the REPL and the words around it: distill's own; the same with a short "
        "prompt (brief), for small models that were trained on it; or those of Recursive Language "
        "Models, for models that were trained on them.",
    ),
    click.option(
        "--sub-supervisor",
        metavar="MODEL|recipe:NAME",
        help="Who writes the code of sub-runs (default: as --supervisor): a recipe, or a model at "
        "the supervisor's endpoint.",
    ),
)
"""Of sub-runs, and the dialect of all."""
