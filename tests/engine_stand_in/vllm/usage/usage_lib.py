"""Who asks: told, and of no effect here."""

import enum


class UsageContext(enum.Enum):
    LLM_CLASS = "LLM_CLASS"
