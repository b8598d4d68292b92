"""The first messages of a run in the rlm dialect: rlm's shape, in words of our own."""

from collections.abc import Mapping, Sequence
from typing import Any

from distill.prompts import CHARS_PER_TOKEN, describe_python, short_text, told_rules

RLM_SYSTEM_PROMPT = """\
You are a Recursive Language Model (RLM): you answer a prompt about a context that is too long to \
read. The context is in a Python REPL, and from there you can call other language models on pieces \
of it. You are asked turn by turn until you have an answer.

Write code in ```repl``` blocks; names stay from turn to turn. In the REPL:
- `context`: the text that the prompt is about, maybe very long.
- `llm_query(prompt: str, model: str | None = None) -> str`: asks a sub-LLM, which sees nothing \
but this prompt: put the passage and the question into it.{window}
- `llm_query_batched(prompts: list[str], model=None) -> list[str]`: asks many at once, in \
parallel; the answers come in order. A call that failed gives a text that begins with "Error: ".
- `rlm_query(prompt, model=None)` / `rlm_query_batched(prompts, model=None)`: {recursion}
- `SHOW_VARS() -> str`: the variables that there are.
- `answer`: a dict, {{"content": "", "ready": False}}. To finish, set `answer["content"]` to the \
final answer and `answer["ready"] = True`, inside a ```repl``` block. `FINAL(answer)` and \
`FINAL_VAR("name")` do the same in one call.
- {python}
{further}
You see what was printed, up to {output_limit:,} characters a block; a bare expression on the last \
line is not shown. So print samples, counts and summaries, and give passages to `llm_query` rather \
than reading them yourself.

How to work: look at `context` first (its type, its length, a few lines). Then say in a sentence \
how the task splits into steps, and take one step a turn: one ```repl``` block, whose output you \
check before the next. Use Python where counting, filtering or searching is enough; use \
`llm_query` where text must be understood, in batches of well-filled prompts, with short answers \
in a fixed form that code can work with. Keep results in variables. Set `answer["ready"]` once you \
have seen the answer printed, and not in the first turn; if turns run out, give your best one."""

RECURSION = (
    "hands a task that itself needs code and several steps to another RLM, with a REPL of its own "
    "in which the prompt is the `context`."
)
NO_RECURSION = "the same as `llm_query` and `llm_query_batched` here."
FIRST_TURN = """\
You have not used the REPL or seen your context yet. Look at the context first; do not give a \
final answer yet.

Turn 1/{turns}:"""


def build_rlm_prompt(
    context: Any,
    query: str,
    *,
    worker_ctx_k: int | None = None,
    output_limit: int = 20_000,
    primitives: Mapping[str, str] | None = None,
    packages: Sequence[str] = (),
    models: Sequence[str] = (),
    answer_rules: Sequence[str] = (),
    max_iterations: int = 15,
    recursive: bool = True,
    show_context_chars: int = 0,
) -> list[dict[str, str]]:
    """A system message, what the context is and what is asked, and the first turn.

    Arguments are those of ``build_system_prompt``; ``recursive`` is whether ``rlm_query`` starts a
    run of its own.
    """
    window = ""
    if worker_ctx_k is not None:
        chars = worker_ctx_k * 1000 * CHARS_PER_TOKEN
        window = f" Prompt and answer together fit in some {chars:,} characters."
    further = "".join(f"{line}\n" for line in (primitives or {}).values())
    if models:
        further += f"- models beside the default: {', '.join(map(repr, models))}\n"
    system = RLM_SYSTEM_PROMPT.format(
        window=window,
        recursion=RECURSION if recursive else NO_RECURSION,
        python=describe_python(packages),
        further=further,
        output_limit=output_limit,
    )
    each = f" Each sub-LLM call can handle roughly {worker_ctx_k}k tokens." if worker_ctx_k else ""
    shown = short_text(context, show_context_chars)
    size = f"Your context is a {type(context).__name__} of {_chars(context)} total characters."
    return [
        {"role": "system", "content": system + told_rules(answer_rules)},
        {"role": "user", "content": f"Answer the following: {query}\n\n{size}{each}{shown}"},
        {"role": "user", "content": FIRST_TURN.format(turns=max_iterations)},
    ]


def _chars(context: Any) -> int:
    """Characters of a text, or of all texts in a list or dict."""
    if isinstance(context, str):
        return len(context)
    values = context.values() if isinstance(context, dict) else context
    return sum(_chars(value) if isinstance(value, str | list | dict) else 0 for value in values)
