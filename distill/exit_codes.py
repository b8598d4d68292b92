"""What the exit codes of each command mean, for its help."""

ONES = {
    2: "the question, the text or an argument can't be used",
    3: "this machine can't do it (platform, sandbox, device, memory)",
    4: "a model or its endpoint failed",
    6: "distill failed",
    130: "Ctrl-C",
}
"""Of most commands."""


def told(meanings: dict[int, str | None]) -> str:
    r"""Lines for ``--help``: these meanings, or the usual ones; None: the command has none such.

    ``\b`` is click's mark for lines that are not rewrapped.
    """
    meant = sorted((ONES | meanings).items())
    lines = [f"  {code:<5}{what}" for code, what in meant if what is not None]
    return "\n".join(["\b", "Exit codes:", *(line.replace("\n", "\n" + " " * 7) for line in lines)])


ASKING = told(
    {
        0: "answered; with --tasks: no task failed",
        5: "no answer: none within the turns or another budget, none that passes,\n"
        "or the text holds none",
    }
)
WORKER = told({0: "it has left in order", 2: "an argument can't be used"})
DOCTOR = told(
    {
        0: "a run would work; the engine answers; the logs are whole",
        2: "something is wrong with the logs, or an argument can't be used",
        3: "a run would not work, or the engine does not",
        4: None,
    }
)
SCORE = told(
    {
        0: "all that could be scored is",
        2: "the runs, labels or an argument can't be used, or a folder was busy",
        3: "the scores can't be written",
        4: "a run could not be scored, or the judge failed",
        5: "the budget has ended it",
    }
)
EXPORT = told(
    {
        0: "written; with --dry-run: counted",
        2: "the runs or an argument can't be used",
        3: None,
        4: None,
        5: "no row is left",
    }
)
TRAIN = told(
    {
        0: "trained; with --tasks: at least one version, kept or dropped",
        2: "the runs, the model or an argument can't be used",
        3: "the device is not there, or its memory is full",
        4: "the model in training collapsed; with --tasks: a model or its endpoint failed",
        5: "the rows, if there are any, have nothing to learn from; with --tasks: no version\n"
        "could be trained",
        130: "Ctrl-C; the same command goes on from there",
    }
)
TASKS = told(
    {0: "written", 2: "the text or an argument can't be used", 3: None, 4: None},
)
COMPARE = told(
    {
        0: "every replay came to its end, whatever the scores",
        2: "the runs, versions, labels or an argument can't be used",
        4: "a replay did not come to its end, or a model failed",
    }
)
VIEW = told(
    {
        0: "written; or served until Ctrl-C",
        2: "the runs or an argument can't be used",
        3: None,
        4: None,
        130: None,
    }
)
