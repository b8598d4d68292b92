"""The formats: one module each, and the list of them."""

from distill.errors import InputError
from distill.exports.formats.atif import Atif
from distill.exports.formats.episodes import Episodes
from distill.exports.formats.few_shot import FewShot
from distill.exports.formats.openai_chat import OpenAISupervisor, OpenAIWorker
from distill.exports.formats.preferences import (
    SupervisorPreferences,
    WorkerPreferences,
    WorkerPreferencesText,
)
from distill.exports.formats.prompts import Prompts, PromptsText
from distill.exports.formats.supervisor_sft import SupervisorSft
from distill.exports.formats.supervisor_turns import SupervisorTurns
from distill.exports.formats.token_sft import TokenSft
from distill.exports.formats.worker_sft import WorkerSft, WorkerSftText
from distill.exports.row import Format

FORMATS: dict[str, type[Format]] = {
    each.name: each
    for each in (
        FewShot,
        WorkerSft,
        WorkerSftText,
        SupervisorSft,
        SupervisorTurns,
        OpenAISupervisor,
        OpenAIWorker,
        TokenSft,
        WorkerPreferences,
        WorkerPreferencesText,
        SupervisorPreferences,
        Prompts,
        PromptsText,
        Episodes,
        Atif,
    )
}


def format_of(name: str) -> Format:
    """The format of this name. Raises InputError that says which there are."""
    if name not in FORMATS:
        raise InputError(f"there is no format {name!r}; there are {', '.join(FORMATS)}")
    return FORMATS[name]()
