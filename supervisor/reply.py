"""Reading a supervisor model's reply: which code it wants run, whatever it looks like."""

import ast
import re
import textwrap
from dataclasses import dataclass

FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+-]*)[^\n`]*$", re.MULTILINE)
LANGUAGES = {"repl", "python", "py", "python3", "tool_code", ""}
THINK = re.compile(r"<(think|thinking)>", re.IGNORECASE)
END_OF_THINKING = re.compile(r"^.*?</think(?:ing)?>[ \t]*$\n?", re.DOTALL | re.MULTILINE)
BARE_FINAL = re.compile(r"^[ \t]*FINAL\(", re.MULTILINE)
BARE_FINALS_TRIED = 8
BARE_FINAL_LINES = 50
"""Bounds on what is parsed of a reply that is hostile, or has gone wild."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The code blocks of a reply, in order; ``problem`` says why there is none to run."""

    blocks: tuple[str, ...]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a reply: prose (``language`` None) or the inside of a fence."""

    text: str
    language: str | None = None


def read_reply(text: str) -> Reply:
    """Find what to run in a reply.

    Fences of ```repl, ```python or no language count, an unclosed one runs to the end; what
    was thought aloud does not; a bare ``FINAL(…)`` at the start of a line counts where there
    is no fence.
    """
    pieces = _pieces(text)
    fenced = [piece for piece in pieces if piece.language is not None]
    blocks = [piece.text for piece in fenced if piece.language in LANGUAGES and piece.text.strip()]
    if blocks:
        return Reply(tuple(blocks))
    if not fenced and (final := _bare_final(_prose(pieces))):
        return Reply((final,))
    return Reply((), _problem(text, pieces))


def without_thinking(text: str) -> str:
    """The reply without its reasoning: the prose and the code, as they were said."""
    return "".join(
        piece.text if piece.language is None else f"```{piece.language}\n{piece.text}\n```\n"
        for piece in _pieces(text)
    )


def _pieces(text: str) -> list[Piece]:
    """Prose and fences in order, reasoning left out.

    Whichever comes first is taken whole: a tag inside a fence is code, a fence inside the
    reasoning is thought. Reasoning that the chat template opened ends at a bare closing tag.
    """
    text = text.replace("\r\n", "\n")
    ended = END_OF_THINKING.match(text)
    if ended and not THINK.search(ended[0]):
        text = text[ended.end() :]
    pieces: list[Piece] = []
    position = 0
    while position < len(text):
        fence, think = FENCE.search(text, position), THINK.search(text, position)
        first = min((m for m in (fence, think) if m), key=lambda m: m.start(), default=None)
        if first is None:
            break
        if text[position : first.start()].strip():
            pieces.append(Piece(text[position : first.start()]))
        if first is think:
            closing = re.compile(rf"</{think[1]}>", re.IGNORECASE).search(text, think.end())
            position = closing.end() if closing else len(text)
        else:
            piece, position = _fence(text, first)
            pieces.append(piece)
    if text[position:].strip():
        pieces.append(Piece(text[position:]))
    return pieces


def _fence(text: str, opening: re.Match[str]) -> tuple[Piece, int]:
    """The fence that opens here, dedented, and where it ends."""
    mark = opening[1]
    closing = re.compile(
        rf"^[ \t]*{re.escape(mark[0])}{{{len(mark)},}}[ \t]*$\n?", re.MULTILINE
    ).search(text, opening.end())
    code = text[opening.end() : closing.start() if closing else len(text)]
    piece = Piece(textwrap.dedent(code).strip("\n"), opening[2].lower())
    return piece, closing.end() if closing else len(text)


def _prose(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces if piece.language is None)


def _bare_final(prose: str) -> str:
    """The call of FINAL that begins a line: as few lines as make it whole; "" if none does."""
    for opening in list(BARE_FINAL.finditer(prose))[-BARE_FINALS_TRIED:]:
        lines = prose[opening.start() :].lstrip().split("\n")[:BARE_FINAL_LINES]
        for count in range(1, len(lines) + 1):
            code = "\n".join(lines[:count])
            try:
                ast.parse(code)
            except (SyntaxError, ValueError):
                continue
            return code
    return ""


def _problem(text: str, pieces: list[Piece]) -> str:
    if not text.strip():
        return "Your reply was empty."
    if not pieces:
        return "Your reply was reasoning only, with no code after it."
    if any(piece.language is not None and not piece.text.strip() for piece in pieces):
        return "There was no code block with code in it."
    other = {piece.language for piece in pieces if piece.language} - LANGUAGES
    if other:
        return f"Your code blocks are marked {', '.join(sorted(other))}; only Python runs here."
    return "There was no code block in your reply."
