"""The tables of the logs as DataFrames of pandas."""

from typing import TYPE_CHECKING, Any

from distill.errors import InputError
from distill.traces.rows import Named, Of, rows

if TYPE_CHECKING:
    import pandas as pd


def frame(named: Named, of: Of = "calls", *, ids: bool = False) -> "pd.DataFrame":
    """The rows of ``rows`` as a DataFrame; arguments and errors are those of ``rows``.

    Raises InputError where pandas is not installed.
    """
    try:
        import pandas as pd  # half a second: for those who want a frame
    except ImportError as error:
        raise InputError(
            "a DataFrame needs pandas, which is not installed: pip install 'distill[export]'"
        ) from error
    columns: dict[str, list[Any]] = {}
    for count, row in enumerate(rows(named, of, ids=ids)):
        if row.keys() - columns.keys():  # only some runs have it, as a score
            columns |= {name: [None] * count for name in row if name not in columns}
        for name, values in columns.items():
            values.append(row.get(name))
    return pd.DataFrame(columns)
