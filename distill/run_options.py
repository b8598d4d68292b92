"""What decides how a run goes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from distill.answers import AnswerRules
from distill.budget import Budget
from distill.prices import PriceTable
from distill.progress import Progress
from distill.protocol.jail_link import Limits
from distill.protocol.message import Record
from distill.protocol.sandbox_link import Wanted
from distill.redaction import NOTHING, Redaction
from distill.repl import REPL
from distill.supervisor.answer_cache import AnswerCaching
from distill.supervisor.dialects import DialectName
from distill.supervisor.recording import ReplayOf


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What decides how a run goes. It comes back from the log (``recorded_options``): an option
    that is no data is named there, one that older logs don't have has a default.
    """

    max_iterations: int
    output_limit: int
    primitives: Mapping[str, Callable[..., Any] | str]
    repl_class: type[REPL]
    record: Record
    worker_options: Mapping[str, Any]
    limits: Limits | None = None
    packages: tuple[str, ...]
    sandbox: Wanted = "auto"
    sources: tuple[str, ...]
    answer_cache: AnswerCaching = "off"
    max_depth: int = 1
    sub_supervisor: str | None = None
    dialect: DialectName = "native"
    budget: Budget = field(default_factory=Budget)
    prices: PriceTable = field(default_factory=PriceTable)
    show_context_chars: int = 0
    on_progress: Callable[[Progress], None] | None
    replay_of: ReplayOf | None = None
    on_text: Callable[[str], None] | None = None
    answer_rules: AnswerRules = field(default_factory=AnswerRules)
    redaction: Redaction = NOTHING
