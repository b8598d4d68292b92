# The names of Recursive Language Models, made of distill's own: docs/rlm.md says what differs.


def llm_query(prompt, model=None):
    """Ask a worker about one prompt; a failure is a text that begins with "Error: "."""
    try:
        return worker(prompt) if model is None else worker(prompt, model=model)
    except Exception as error:
        return f"Error: {error}"


def llm_query_batched(prompts, model=None):
    """Ask about many prompts at once; the answers come in their order."""
    prompts = list(prompts)
    try:
        return worker_batch(prompts) if model is None else worker_batch(prompts, model=model)
    except WorkerBatchError as error:
        return _with_errors(error)
    except Exception as error:
        return [f"Error: {error}"] * len(prompts)


def rlm_query(prompt, model=None):
    """Have a supervisor of its own, with a fresh REPL, do what the prompt asks."""
    if _supervisor is None:
        return llm_query(prompt, model)
    try:
        return str(_supervisor(_SUBTASK, prompt))
    except Exception as error:
        return f"Error: {error}"


def rlm_query_batched(prompts, model=None):
    """The same for many prompts, in parallel; the answers come in their order."""
    prompts = list(prompts)
    if _supervisor is None:
        return llm_query_batched(prompts, model)
    try:
        return [str(each) for each in _supervisor([_SUBTASK] * len(prompts), contexts=prompts)]
    except SubRunError as error:
        return _with_errors(error)
    except Exception as error:
        return [f"Error: {error}"] * len(prompts)


def SHOW_VARS():
    """The names of the variables that cells have made, and their types."""
    made = {name: type(value).__name__ for name, value in _variables().items()}
    if not made:
        return "No variables created yet. Use ```repl``` blocks to create variables."
    return f"Available variables: {made}"


def FINAL_VAR(variable_name):
    """Give a variable's value as the answer, by its name; or a value itself."""
    if not isinstance(variable_name, str):
        FINAL(str(variable_name))
    name, made = variable_name.strip().strip("\"'"), _variables()
    if name in made:
        FINAL(str(made[name]))
    return (
        f"Error: Variable '{name}' not found. Available variables: {list(made)}. You must create "
        "and assign a variable in a REPL block BEFORE calling FINAL_VAR on it."
    )


def _with_errors(error):
    answers = list(error.answers)
    for item, reason in error.errors.items():
        answers[item] = f"Error: {reason}"
    return [str(each) for each in answers]


def _variables():
    return {
        name: value
        for name, value in globals().items()
        if not name.startswith("_") and name not in _SCAFFOLD
    }


def _end_of_block():
    """Runs after each block: the REPL's names are its own again; is there an answer?"""
    given = globals().get("answer")
    globals().update(_OWN)
    if not isinstance(given, dict):
        given = {"content": "", "ready": False}
    globals()["answer"] = given
    if given.get("ready"):
        FINAL(str(given.get("content", "")))


_SUBTASK = "Do what the prompt in `context` asks."
_supervisor = globals().get("supervisor")
context_0 = context
answer = {"content": "", "ready": False}
_OWN = {
    name: globals()[name]
    for name in """llm_query llm_query_batched rlm_query rlm_query_batched SHOW_VARS FINAL FINAL_VAR
    context context_0""".split()
}
_SCAFFOLD = set(globals()) - {"context", "context_0"}
