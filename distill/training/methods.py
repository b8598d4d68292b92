"""The way to train that a command line asks for."""

from typing import Any

from distill.training.loss import Clipping
from distill.training.method import Method
from distill.training.opd import Opd
from distill.training.rl import Rl
from distill.training.sft import Sft


def taken_from(name: str, options: dict[str, Any]) -> Method:
    """The method of this name, as its own options have it, which are taken out of ``options``."""
    if name == "rl":
        clip, high = options.pop("clip"), options.pop("clip_high")
        clipping = Clipping(clip, clip if high is None else high)
        return Rl(clipping, options.pop("kl"), options.pop("staleness"))
    if name == "opd":
        teacher, adapter = options.pop("teacher"), options.pop("teacher_adapter")
        return Opd(teacher, adapter, options.pop("staleness"))
    del options["of"], options["exact"]  # they say which rows
    return Sft()
