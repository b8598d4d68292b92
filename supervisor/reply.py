"""Reading a supervisor model's reply: which code it wants run, whatever it looks like."""

import re
from dataclasses import dataclass

FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+-]*)[^\n`]*$", re.MULTILINE)
LANGUAGES = {"repl", "python", "py", "python3", "tool_code", ""}
THINKING = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
OPEN_THINKING = re.compile(r"<think(?:ing)?>", re.IGNORECASE)
END_OF_THINKING = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
BARE_FINAL = re.compile(r"^[ \t]*(FINAL\(.*\))[ \t]*$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Reply:
    """The code blocks of a reply, in order; ``problem`` says why there is none to run."""

    blocks: tuple[str, ...]
    problem: str = ""


def read_reply(text: str) -> Reply:
    """Find what to run in a reply.

    Fences of ```repl, ```python or no language count, an unclosed one runs to the end; what
    was thought aloud does not; a bare line ``FINAL(…)`` counts where there is no fence.
    """
    spoken = without_thinking(text)
    blocks = [code for language, code in _fenced(spoken) if language in LANGUAGES]
    blocks = [code for code in blocks if code.strip()]
    if blocks:
        return Reply(tuple(blocks))
    if final := BARE_FINAL.search(spoken):
        return Reply((final[1],))
    return Reply((), _problem(text, spoken))


def without_thinking(text: str) -> str:
    """The reply without its reasoning, closed, unclosed, or opened by the template."""
    text = THINKING.sub("", text)
    if END_OF_THINKING.search(text):
        text = END_OF_THINKING.split(text)[-1]
    if opened := OPEN_THINKING.search(text):
        text = text[: opened.start()]
    return text


def _fenced(text: str) -> list[tuple[str, str]]:
    """``(language, code)`` of each fence."""
    found = []
    position = 0
    while opening := FENCE.search(text, position):
        mark, language = opening[1], opening[2].lower()
        closing = re.compile(
            rf"^[ \t]*{re.escape(mark[0])}{{{len(mark)},}}[ \t]*$", re.MULTILINE
        ).search(text, opening.end())
        end = closing.start() if closing else len(text)
        found.append((language, text[opening.end() : end].strip("\n")))
        if not closing:
            break
        position = closing.end()
    return found


def _problem(text: str, spoken: str) -> str:
    if not text.strip():
        return "Your reply was empty."
    if not spoken.strip():
        return "Your reply was reasoning only, with no code after it."
    other = {language for language, _ in _fenced(spoken)} - LANGUAGES
    if other:
        return f"Your code blocks are marked {', '.join(sorted(other))}; only Python runs here."
    return "There was no code block in your reply."
