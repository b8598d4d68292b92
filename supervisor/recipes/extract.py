"""Recipe *extract*: records told in prose, one to a paragraph, read one by one.

This file is run as one cell of the REPL, just as code that a supervisor model writes. The REPL
provides `context`, `query`, `worker_batch`, `WorkerBatchError`, `FINAL`.

    context ─► paragraphs ─► a worker gives each record in one line ─► the line that is asked for

It answers tasks of the family *extract*: with the one record there is, as the worker gave it, or
with what the buyer paid that the question names. A worker is shown no example (`recipe:extract`),
three as earlier turns (`recipe:extract-shots`), and may write nothing but such a line
(`recipe:extract-schema`, `recipe:extract-shots-schema`).
"""

import re

SHOTS = False  # switch: recipe:extract-shots
SCHEMA = False  # switch: recipe:extract-schema

ANSWER_TOKENS = 48
ASK = (
    "Give the purchase in this text in one line, as buyer=…; town=…; goods=…; marks=… with a full "
    "stop"
)
LINE = re.compile(r"buyer=([^;\n]+); town=([^;\n]+); goods=([^;\n]+); marks=(\d+)\.")
CONSTRAINT = r"buyer=[A-Z][a-z]{1,20}; town=[A-Z][a-z]{1,20}; goods=[a-z]{1,20}; marks=[0-9]{1,4}\."
# Invented, of names and goods that no generated document has; in prose like that of the documents.
EXAMPLES = {
    "buyer=Anselm; town=Crowle; goods=ink; marks=64.": """\
And Enok said unto Hadram, Let the roads be watched, for the waters are risen upon the land. Then \
Anselm of Crowle paid 64 marks to Ysolde for ink. And Hadram did as he was bidden, he and all his \
house.""",
    "buyer=Maud; town=Tibury; goods=glass; marks=215.": """\
At the bridge Maud of Tibury bought glass from Quentin for 215 marks. Now Joram the son of Ketil \
was keeper of the gate: and he slept, and saw not them that passed by.""",
    "buyer=Eustace; town=Zelford; goods=leather; marks=38.": """\
So they sang before the king until the morning, Amariel and her sisters; And the song was of a \
river that was in Tebal. It is written that Eustace of Zelford bought leather and paid 38 marks.""",
}


def join_documents(documents):
    """Return one text; `documents` is a str, a list of str or a dict of name -> str."""
    if isinstance(documents, str):
        return documents
    parts = documents.values() if isinstance(documents, dict) else documents
    return "\n\n".join(parts)


def build_prompt(paragraph):
    """Return the messages that ask about one paragraph."""
    messages = []
    for line, example in EXAMPLES.items() if SHOTS else ():
        messages += [
            {"role": "user", "content": f"{ASK}\n\n{example}"},
            {"role": "assistant", "content": line},
        ]
    return [*messages, {"role": "user", "content": f"{ASK}\n\n{paragraph}"}]


def read_records(paragraphs):
    """Return what the worker says of each paragraph, "" where it failed."""
    constraint = {"regex": CONSTRAINT} if SCHEMA else {}
    prompts = [build_prompt(each) for each in paragraphs]
    try:
        answers = worker_batch(prompts, max_tokens=ANSWER_TOKENS, **constraint)
    except WorkerBatchError as error:
        if all(answer is None for answer in error.answers):
            raise  # not "there is no record", but nobody could read it
        print(f"{len(error.errors)} of {len(prompts)} failed: {next(iter(error.errors.values()))}")
        answers = error.answers
    return [(answer or "").strip() for answer in answers]


def what_was_paid(answers, question):
    """Return the price of the record whose buyer the question names, or None if there is none."""
    records = [found for found in map(LINE.fullmatch, answers) if found]
    print(f"{len(records)} of {len(answers)} answers are records")
    asked = re.findall(r"\w+", question)
    prices = [found[4] for found in records if found[1] in asked]
    return prices[0] if prices else None


paragraphs = [each.strip() for each in join_documents(context).split("\n\n") if each.strip()]
answers = read_records(paragraphs)
FINAL(answers[0] if len(answers) == 1 else what_was_paid(answers, query))
