"""Reading a supervisor model's reply: which code it wants run, whatever it looks like."""

import ast
import doctest
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Self

from distill.models import LMResponse
from distill.supervisor.text import printable
from distill.supervisor.tool_calls import FORMS, as_text, read_calls

FENCE = re.compile(r"^[ \t]*+(`{3,}+|~{3,}+)[ \t]*+([\w+-]*+)[^\n`]*+$", re.MULTILINE)
ONE_LINE = re.compile(
    r"^[ \t]*+```[ \t]*+(repl|python3?|py)[ \t]++([^\n`]++)```[ \t]*+$", re.MULTILINE
)
LANGUAGES = {"repl", "python", "py", "python3", "ipython", "pycon", "tool_code", ""}
THINK = re.compile(
    r"<(think|thinking|thought|reasoning|seed:think)>|\[(THINK)\]|◁(think)▷"
    r"|<\|(begin_of_thought)\|>|<\|channel\|>(analysis)<\|message\|>",
    re.IGNORECASE,
)
END_OF_THOUGHT = {"begin_of_thought": r"<\|end_of_thought\|>", "analysis": r"<\|(?:end|start)\|>"}
"""Where it is not the opening with a slash."""
END_OF_THINKING = re.compile(
    r"^.*?(</think(?:ing)?>|\[/THINK\]|◁/think▷)[ \t]*$\n?", re.DOTALL | re.MULTILINE
)
SPECIAL = re.compile(
    r"<\|start\|>assistant|<\|channel\|>final<\|message\|>"
    r"|(<\|(im_end|eot_id|eom_id|end|return|endoftext|end_of_text)\|>|</s>|<end_of_turn>)\s*\Z"
)
"""Tokens of chat templates that some endpoints leave in."""
BARE_FINAL = re.compile(r"^[ \t]*FINAL\(", re.MULTILINE)
BARE_NAMES = frozenset(("context", "worker", "worker_batch", "print", "FINAL"))
"""A reply that is nothing but Python, and has one of these, is code without a fence."""
BARE_FINALS_TRIED = 8
BARE_FINAL_LINES = 50
ENDS_TRIED = 4
PIECES_READ = 400
READ_CHARS = 1 << 18
SHOWN_CHARS = 1 << 20
"""Bounds on what is read of a reply that is hostile, or has gone wild."""

CUT = frozenset(("length", "max_tokens", "max_output_tokens", "model_length"))
FILTERED = frozenset(
    ("content_filter", "safety", "recitation", "blocklist", "prohibited_content", "refusal")
)
"""Finish reasons, as endpoints spell them."""
CUT_OFF = """\
Your reply was cut off at its length limit{where}. Write the code first, and in smaller pieces."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The code blocks of a reply, in order; ``problem`` says why there is none to run.

    ``notes`` are for the model to know, beside what the blocks print.
    """

    blocks: tuple[str, ...]
    problem: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Said:
    """What a supervisor model said, as its message has it, and why it stopped."""

    text: str
    finish_reason: str = "stop"
    refused: bool = False

    @classmethod
    def of(cls, response: LMResponse) -> Self:
        """Calls of an endpoint's own form follow the text in words; a refusal is its own text."""
        calls = [as_text(call.name, call.arguments) for call in response.tool_calls]
        text = "\n".join((*([response.text] if response.text else []), *calls))
        refused = not text.strip() and bool(response.refusal.strip())
        said = printable(response.refusal if refused else text)
        return cls(said, response.finish_reason, refused)

    @property
    def is_refusal(self) -> bool:
        """Whether the model, or its endpoint's filter, would not answer, at least in the end."""
        return self.refused or self.finish_reason.lower() in FILTERED


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a reply: prose (``language`` None), the inside of a fence, or of a tool call."""

    text: str
    language: str | None = None
    is_closed: bool = True


@lru_cache(maxsize=1)  # it is read to be logged, and at once again to be run
def read_reply(text: str, finish_reason: str = "stop", *, refused: bool = False) -> Reply:
    """Find what to run in a reply.

    Fences of ```repl, ```python or no language count, an unclosed one runs to the end unless
    the reply was cut off; so does the code of tool calls. What was thought aloud does not; where
    there is no fence, a bare ``FINAL(…)`` at the start of a line, and a reply that is Python.
    """
    if refused:
        return Reply((), f"You declined: {text.strip()[:200]!r}.")
    text, finish = text[:READ_CHARS], finish_reason.lower()
    pieces = _pieces(text)
    fenced = [piece for piece in pieces if piece.language is not None]
    code = [piece for piece in fenced if piece.language in LANGUAGES and piece.text.strip()]
    is_cut = finish in CUT or finish in FILTERED
    if is_cut and code and not code[-1].is_closed:
        del code[-1]
        where = "; the last block was not complete, and did not run"
    else:
        where = ""
    if code:
        notes = (_ended(finish, where),) if is_cut else ()
        return Reply(tuple(_statements(piece.text) for piece in code), notes=notes)
    if is_cut:
        return Reply((), _ended(finish, where or " before there was any code"))
    if not fenced and (bare := _bare_code(_prose(pieces))):
        return Reply((bare,))
    return Reply((), _problem(text, pieces))


def _ended(finish: str, where: str) -> str:
    if finish in CUT:
        return CUT_OFF.format(where=where)
    return f"The endpoint's content filter stopped your reply{where}. Say it in another way."


def without_thinking(text: str) -> str:
    """The reply without its reasoning: the prose and the code, as they were said."""
    return "".join(
        piece.text if piece.language is None else f"```{piece.language}\n{piece.text}\n```\n"
        for piece in _pieces(text[:SHOWN_CHARS])
    )


Taken = tuple[list[Piece], int]


def _pieces(text: str) -> list[Piece]:
    """Prose, fences and tool calls in order, reasoning left out.

    Whichever comes first is taken whole: a tag inside a fence is code, a fence inside the
    reasoning is thought. Reasoning that the chat template opened ends at a bare closing tag.
    """
    text = SPECIAL.sub("", text.replace("\r\n", "\n"))
    ended = END_OF_THINKING.match(text)
    if ended and not THINK.search(ended[0]):
        text = text[ended.end() :]
    pieces: list[Piece] = []
    position = 0
    nexts = [(pattern.search(text), take, pattern) for pattern, take in OPENINGS]
    while len(pieces) < PIECES_READ:
        found = [(match, take) for match, take, _ in nexts if match]
        if not found:
            break
        first, take = min(found, key=lambda each: each[0].start())
        if text[position : first.start()].strip():
            pieces.append(Piece(text[position : first.start()]))
        taken, position = take(text, first)
        pieces += taken
        nexts = [
            (match and (match if match.start() >= position else pattern.search(text, position)),
             take, pattern)
            for match, take, pattern in nexts
        ]  # fmt: skip
    if text[position:].strip():
        pieces.append(Piece(text[position:]))
    return pieces


def _thought(text: str, opening: re.Match[str]) -> Taken:
    name = next(group for group in opening.groups() if group).lower()
    mark = END_OF_THOUGHT.get(name, r"(?:</|\[/|◁/)" + re.escape(name) + r"[>\]▷]")
    closing = re.compile(mark, re.IGNORECASE).search(text, opening.end())
    return [], closing.end() if closing else len(text)


def _one_line(_text: str, found: re.Match[str]) -> Taken:
    return [Piece(found[2].strip(), found[1])], found.end()


def _fence(text: str, opening: re.Match[str]) -> Taken:
    """The fence that opens here, dedented, and where it ends.

    It ends at its mark on a line of its own: the first that makes it whole Python, if one does.
    Models also put the mark behind the last line, or leave it out before the next fence.
    """
    mark, count = opening[1][0], len(opening[1])
    own = re.compile(rf"\n[ \t]*{mark}{{{count},}}[ \t]*$\n?", re.MULTILINE)
    other = re.compile(
        rf"{mark}{{{count}}}[ \t]*$\n?|^(?=[ \t]*{mark}{{{count}}}[ \t]*\w+[ \t]*$)", re.MULTILINE
    )
    language = opening[2].lower()
    first = own.search(text, opening.end())
    for ends in (own, other) if language in LANGUAGES else ():
        for closing in islice(ends.finditer(text, opening.end()), ENDS_TRIED):
            code = _dedented(text[opening.end() : closing.start()])
            if code.strip() and _is_python(code):
                return [Piece(code, language)], closing.end()
            if ends is own and not code.strip():
                return [Piece(code, language)], closing.end()
    code = _dedented(text[opening.end() : first.start() if first else len(text)])
    return [Piece(code, language, first is not None)], first.end() if first else len(text)


def _calls(form_number: int) -> Callable[[str, re.Match[str]], Taken]:
    def take(text: str, opening: re.Match[str]) -> Taken:
        codes, end, is_closed = read_calls(text, FORMS[form_number], opening)
        if not codes:
            return [Piece(text[opening.start() : end], "tool call")], end
        return [Piece(_dedented(code), "python", is_closed) for code in codes], end

    return take


OPENINGS = (
    (ONE_LINE, _one_line),
    (FENCE, _fence),
    *((form.opening, _calls(number)) for number, form in enumerate(FORMS)),
    (THINK, _thought),
)


def _dedented(code: str) -> str:
    return textwrap.dedent(code).strip("\n")


def _statements(code: str) -> str:
    """The code without the prompts of an interactive session."""
    if not code.lstrip().startswith(">>> ") or _is_python(code):
        return code
    try:
        return "".join(each.source for each in doctest.DocTestParser().get_examples(code))
    except ValueError:
        return code


def _parsed(code: str) -> ast.Module | None:
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _is_python(code: str) -> bool:
    return _parsed(code) is not None


def _prose(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces if piece.language is None)


def _bare_code(prose: str) -> str:
    """Code without a fence: all of the reply, or a call of FINAL in it; "" if there is none."""
    code = _dedented(prose)
    tree = _parsed(code)
    if tree is not None and any(_names(tree)):
        return code
    return _bare_final(prose)


def _names(tree: ast.Module) -> Iterator[bool]:
    """For each call or import: whether it shows that this is meant to be run."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield isinstance(node.func, ast.Name) and node.func.id in BARE_NAMES
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield True


def _bare_final(prose: str) -> str:
    """The call of FINAL that begins a line: as few lines as make it whole; "" if none does."""
    for opening in list(BARE_FINAL.finditer(prose))[-BARE_FINALS_TRIED:]:
        lines = prose[opening.start() :].lstrip().split("\n")[:BARE_FINAL_LINES]
        for count in range(1, len(lines) + 1):
            code = "\n".join(lines[:count])
            if _is_python(code):
                return code
    return ""


def _problem(text: str, pieces: list[Piece]) -> str:
    if not text.strip():
        return "Your reply was empty."
    if not pieces:
        return "Your reply was reasoning only, with no code after it."
    if any(piece.language == "tool call" for piece in pieces):
        return "Your tool call has no code that can be read: there are no tools here but the REPL."
    if any(piece.language is not None and not piece.text.strip() for piece in pieces):
        return "There was no code block with code in it."
    other = {piece.language for piece in pieces if piece.language} - LANGUAGES
    if other:
        return f"Your code blocks are marked {', '.join(sorted(other))}; only Python runs here."
    return "There was no code block in your reply."
