"""The formats: one module each, and the list of them."""

from distill.errors import InputError
from distill.exports.formats.worker_sft import WorkerSft
from distill.exports.row import Format

FORMATS: dict[str, type[Format]] = {each.name: each for each in (WorkerSft,)}


def format_of(name: str) -> Format:
    """The format of this name. Raises InputError that says which there are."""
    if name not in FORMATS:
        raise InputError(f"there is no format {name!r}; there are {', '.join(FORMATS)}")
    return FORMATS[name]()
