"""What a run's answer must be: its schema, its quotations, a check of the caller's.

::

    FINAL(value) ─► schema ─► quotations ─► the caller's check ─► it is the answer
                      └───────────┴───────────────┴─► FinalError in the cell, which says why

All of it runs on the host, in a thread. The answer is a hostile value, however well it fits.
"""

import copy
import inspect
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from distill.errors import InputError
from distill.supervisor.evidence import Quotation
from distill.supervisor.host_calls import is_json
from distill.supervisor.quotations import file_of, is_empty, locate, quoted_in
from distill.supervisor.text import clip, printable_json

Check = Callable[..., Any]
QUOTATION = "quotation"
"""The ``format`` of a schema's strings that are quotations as a whole."""
SCHEMA_CHARS = 100_000
"""The supervisor model reads it."""
QUOTATIONS_LIMIT = 200
"""In one answer: each that is absent is a search through all of the text."""
LOCATE_S = 30.0
"""Less than a check may take, so that the thread that looks has ended before another begins."""
ERRORS_TOLD = 3
ERROR_CHARS = 400
PROBLEM_CHARS = 4000
FENCED = re.compile(r"```[a-z]*+[^\S\n]*+\n(.*?)```", re.DOTALL)


def schema_of(given: Any) -> dict[str, Any] | None:
    """A JSON schema as it is given: itself, or a class that has one.

    A class is one of pydantic's, a dataclass, a TypedDict, or what else msgspec knows. Raises
    InputError, also for a schema that refers to other files or addresses.
    """
    if given is None:
        return None
    try:
        if isinstance(given, Mapping):
            schema = json.loads(json.dumps(given, allow_nan=False))
        elif hasattr(given, "model_json_schema"):
            schema = given.model_json_schema()
        else:
            schema = msgspec.json.schema(given)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            "answer_schema is a JSON schema (a dict), a pydantic model or a dataclass, not "
            f"{clip(repr(given), 100)}: {error}"
        ) from error
    if len(json.dumps(schema)) > SCHEMA_CHARS:
        raise InputError(f"answer_schema is longer than {SCHEMA_CHARS:,} characters")
    _validator(schema)
    return dict(schema)


def read_schema(path: str | Path) -> dict[str, Any]:
    """The schema in a JSON file. Raises InputError."""
    try:
        schema = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"the schema {path} can't be read as JSON: {error}") from error
    if not isinstance(schema, dict):
        raise InputError(f"the schema {path} must be a JSON object")
    return schema_of(schema) or {}


def _validator(schema: Mapping[str, Any], on_quotation: Callable[[str], object] = str) -> Any:
    """Rust's validator: its regular expressions have a limit of steps, and it stays offline."""
    import jsonschema_rs  # 6 MB that few runs need

    def is_quotation(text: str) -> bool:
        on_quotation(text)
        return True

    try:
        return jsonschema_rs.validator_for(
            dict(schema),
            formats={QUOTATION: is_quotation},
            validate_formats=True,
            offline=True,
        )
    except (ValueError, TypeError, jsonschema_rs.ReferencingError) as error:
        reason = getattr(error, "message", str(error))
        raise InputError(f"answer_schema is no JSON schema: {clip(reason, 500)}") from error


@dataclass(frozen=True, slots=True)
class AnswerRules:
    """What a run's answer must be. ``schema`` is one that ``schema_of`` has returned."""

    schema: Mapping[str, Any] | None = None
    quote_check: bool = False
    check: Check | None = None

    def __bool__(self) -> bool:
        return self.schema is not None or self.quote_check or self.check is not None

    def logged(self) -> dict[str, Any]:
        """As ``run_start`` has them: the check by its name only."""
        name = getattr(self.check, "__qualname__", type(self.check).__name__)
        return {
            "answer_schema": self.schema,
            "quote_check": self.quote_check,
            "answer_check": None if self.check is None else name,
        }

    def told(self) -> list[str]:
        """Lines for the supervisor model."""
        lines = []
        if self.schema is not None:
            schema = json.dumps(self.schema, ensure_ascii=False)
            lines.append(f"It must fit this JSON schema: {schema}")
        if self.quote_check:
            fields = f' and every field with format "{QUOTATION}"' if self._names_fields() else ""
            lines.append(
                f"Every passage of it in quotation marks{fields} must stand in the text word for "
                "word; only white space may differ."
            )
        if self.check is not None:
            lines.append("It is checked by the program that asked.")
        return lines

    def _names_fields(self) -> bool:
        return f'"{QUOTATION}"' in json.dumps(self.schema)

    def problem(self, answer: Any, context: Any) -> str | None:
        """Why it is not an answer to this run, in one message; None if it is. For a thread."""
        found = (
            self._schema_problem(answer)
            or self._quotation_problem(answer, context)
            or self._check_problem(answer, context)
        )
        return None if found is None else clip(found, PROBLEM_CHARS)

    def read(self, text: str, context: Any) -> tuple[Any, str | None]:
        """The answer in a last reply, as a value where the schema wants one; and its problem."""
        if self._schema_problem(text) is not None:
            for candidate in (text, *FENCED.findall(text)):
                value = _value_in(candidate)
                if is_json(value) and self._schema_problem(value) is None:
                    return value, self.problem(value, context)
        return text, self.problem(text, context)

    def quotations(
        self, answer: Any, context: Any, sources: Sequence[str]
    ) -> tuple[Quotation, ...]:
        """The answer's quotations that stand in the context, each where it first does."""
        if not self.quote_check:
            return ()
        quoted = self._quoted(answer)[:QUOTATIONS_LIMIT]
        found = locate(quoted, context, LOCATE_S)
        return tuple(
            replace(found[each], file=file_of(found[each], sources))
            for each in quoted
            if each in found
        )

    def _schema_problem(self, answer: Any) -> str | None:
        if self.schema is None:
            return None
        errors = []
        for error in _validator(self.schema).iter_errors(answer):
            where = "".join(f"/{step}" for step in error.instance_path)
            errors.append(f"{where}: {error.message}" if where else error.message)
            if len(errors) > ERRORS_TOLD:
                break
        if not errors:
            return None
        told = "; ".join(clip(error, ERROR_CHARS) for error in errors[:ERRORS_TOLD])
        more = "; and more" if len(errors) > ERRORS_TOLD else ""
        return f"it does not fit the schema: {told}{more}"

    def _quoted(self, answer: Any) -> list[str]:
        """Its quotations without doubles, in order: fields of the schema, then in its texts."""
        named: list[str] = []
        if self.schema is not None:
            _validator(self.schema, named.append).is_valid(answer)
        whole = set(named)
        inner = (each for each in quoted_in(answer) if each not in whole)
        return [each for each in dict.fromkeys((*named, *inner)) if not is_empty(each)]

    def _quotation_problem(self, answer: Any, context: Any) -> str | None:
        if not self.quote_check:
            return None
        quoted = self._quoted(answer)
        if len(quoted) > QUOTATIONS_LIMIT:
            return f"it has {len(quoted):,} quotations; {QUOTATIONS_LIMIT:,} can be checked"
        try:
            found = locate(quoted, context, LOCATE_S)
        except TimeoutError:
            return (
                f"its {len(quoted):,} quotations could not be looked for in {LOCATE_S:.0f} s: give "
                "fewer, and shorter ones"
            )
        missing = [each for each in quoted if each not in found]
        if not missing:
            return None
        told = ", ".join(f"“{clip(each, ERROR_CHARS)}”" for each in missing[:ERRORS_TOLD])
        more = " and more" if len(missing) > ERRORS_TOLD else ""
        return (
            f"{len(missing)} of {len(quoted)} quotations do not stand in the text word for word: "
            f"{told}{more}. Copy them from the text, without leaving anything out, or leave out "
            "the quotation marks"
        )

    def _check_problem(self, answer: Any, context: Any) -> str | None:
        if self.check is None:
            return None
        own = copy.deepcopy(answer)  # what is recorded is what came, whatever the check does
        try:
            said = self.check(own, context) if _takes_context(self.check) else self.check(own)
        except Exception as error:  # noqa: BLE001  (its failure is what it says of the answer)
            plain = type(error) in (ValueError, AssertionError) and str(error)
            return str(error) if plain else f"{type(error).__name__}: {error}"
        if said is False:
            return "the check of the program that asked refused it"
        return said if isinstance(said, str) and said else None


def rules_from(schema: Any, quote_check: Any, check: Any) -> AnswerRules:
    """The rules as ``run`` is given them. Raises InputError."""
    if not isinstance(quote_check, bool):
        raise InputError(f"quote_check is True or False, not {quote_check!r}")
    if check is not None:
        if not callable(check):
            raise InputError(f"answer_check must be a function, not {type(check).__name__}")
        if inspect.iscoroutinefunction(check):
            raise InputError("answer_check runs in a thread: it must be a plain function, no async")
        _takes_context(check)
    return AnswerRules(schema_of(schema), quote_check, check)


def _takes_context(check: Check) -> bool:
    """Whether it wants the context beside the answer. Raises InputError if it takes neither."""
    try:
        parameters = inspect.signature(check).parameters.values()
    except (TypeError, ValueError):  # a builtin that does not say
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    places = [each for each in parameters if each.kind in kinds]
    needed = [each for each in places if each.default is inspect.Parameter.empty]
    takes_any = any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters)
    if len(needed) > 2 or not (places or takes_any):
        raise InputError("answer_check must take the answer, and the context if it wants it")
    return len(needed) == 2 or (len(places) > 1 and places[1].name == "context")


def _value_in(text: str) -> Any:
    """The JSON that the text is, as a log can hold it; what FINAL would refuse if it is none."""
    try:
        return printable_json(json.loads(text, parse_constant=_refuse))
    except (ValueError, RecursionError):
        return math.nan


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
