"""What a client may set of a run."""

from typing import Any

import msgspec

from distill.errors import InputError
from distill.protocol.message import Record
from distill.supervisor.answer_cache import AnswerCaching
from distill.supervisor.dialects import DialectName
from distill.supervisor.recording import Answers

NO_MODEL = "--base-url and --supervisor-…-per-minute need --supervisor: who goes on with the run"
NO_REPLAY = "--replay-answers is for --supervisor replay:RUN"


BARE = ""
"""In the place of an adapter's name: the engine's model without one, whatever its default is."""


class AskOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client may set of a run; ``distill.run`` documents them."""

    max_iterations: int = 15
    output_limit: int | None = None
    worker_ctx_k: int | None = None
    record: Record = "ids"
    log_dir: str | None = None
    label: str | None = None
    worker_options: dict[str, Any] | None = None
    limits: dict[str, int | float] = {}
    sandbox_packages: tuple[str, ...] = ()
    adapter: str | None = None
    answer_cache: AnswerCaching = "off"
    replay_answers: Answers = "log"
    answer_schema: dict[str, Any] | None = None
    quote_check: bool = False
    max_depth: int = 1
    sub_supervisor: str | None = None
    dialect: DialectName = "native"
    primitives: tuple[str, ...] | dict[str, str] = ()
    max_turns: int | None = None
    max_worker_calls: int | None = None
    max_tokens: int | None = None
    max_dollars: float | None = None
    max_gpu_s: float | None = None
    max_wall_s: float | None = None
    prices: str | dict[str, Any] | None = None
    show_context_chars: int = 0
    redact: tuple[str, ...] = ()
    otlp: str | None = None
    otlp_content: bool = False


def checked(options: dict[str, Any]) -> dict[str, Any]:
    """A client's options by name, all that there are. Raises InputError."""
    try:
        return msgspec.structs.asdict(msgspec.convert(options, AskOptions))
    except msgspec.ValidationError as error:
        raise InputError(f"bad option: {error}") from None
