"""The first messages of a run in the brief dialect: few words, for small models.

A model that was trained on what another one wrote needs no manual, and its window is small. The
native prompt has some 550 tokens of SmolLM2's, this one some 110.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from distill.prompts import QUESTION, describe_context, short_text, told_rules

BRIEF_SYSTEM_PROMPT = """\
Answer the question with Python. `context` is the text, {context_description}; `query` is the \
question. `worker(prompt)` asks a small model, `worker_batch(prompts)` asks it about many. \
`FINAL(answer)` ends. Reply with one ```repl block.
"""


def build_brief_prompt(
    context: Any,
    query: str,
    *,
    worker_ctx_k: int | None = None,
    output_limit: int = 2000,
    primitives: Mapping[str, str] | None = None,
    packages: Sequence[str] = (),
    models: Sequence[str] = (),
    show_context_chars: int = 0,
    answer_rules: Sequence[str] = (),
) -> list[dict[str, str]]:
    """A system message and the question, as ``build_system_prompt`` gives them, with its arguments.

    Of the worker's window, of Python and its packages, and of the output limit nothing is said.
    """
    del worker_ctx_k, output_limit, packages
    text = BRIEF_SYSTEM_PROMPT.replace("{context_description}", describe_context(context))
    text += "".join(f"{line}\n" for line in (primitives or {}).values())
    if models:
        text += f"worker(prompt, model=NAME) asks another: {', '.join(map(repr, models))}\n"
    shown = short_text(context, show_context_chars)
    return [
        {"role": "system", "content": text + told_rules(answer_rules)},
        {"role": "user", "content": QUESTION.replace("{query}", query) + shown},
    ]
