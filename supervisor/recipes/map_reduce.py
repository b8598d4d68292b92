"""Recipe *map-reduce*: read the whole text, chunk by chunk, and merge what the chunks say.

This file is run as one cell of the REPL, just as code that a supervisor model writes. The REPL
provides `context`, `query`, `worker_batch`, `WorkerBatchError`, `worker_window_tokens`, `FINAL`.

    context ─► chunks that fit the window ─► a note per chunk ─► groups of notes that fit
                                                    ▲                     │
                                                    └── merged notes ◄────┘ until one is left

Every character is read once. It suits questions about the whole (what happens, who appears);
for a single fact *find* is better and far cheaper.
"""

NOTE_TOKENS = 160  # what one chunk, or one group of notes, may say
CHARS_PER_TOKEN = 3  # a low estimate, so that a prompt never outgrows the window
TEMPLATE_TOKENS = 64  # the chat template's own words
# From the paragraph down to the word: where a chunk may end, best place first.
BREAKS = ("\n\n", ".\n", "?\n", "!\n", ":\n", ";\n", ". ", "? ", "! ", "\n", " ")

# The chunk comes first: several questions about one text then share the cached part.
READ = (
    "{part}\n\nAbove is one part of a longer text. Task: {query}\n"
    "Write in a few short sentences what this part says about the task. "
    "If it says nothing, write: nothing."
)
MERGE = (
    "{part}\n\nAbove are notes on successive parts of one text. Task: {query}\n"
    "Using only the notes, write one short answer to the task."
)


def join_documents(documents):
    """Return one text; `documents` is a str, a list of str or a dict of name -> str."""
    if isinstance(documents, str):
        return documents
    if isinstance(documents, dict):
        return "\n\n".join(f"[{name}]\n{text}" for name, text in documents.items())
    return "\n\n".join(documents)


def split_chunks(text, size_chars):
    """Return neighbouring chunks of at most `size_chars`, each ending at a good break."""
    chunks, start = [], 0
    while start < len(text):
        end = min(start + size_chars, len(text))
        if end < len(text):
            for mark in BREAKS:
                found = text.rfind(mark, start + size_chars // 2, end)
                if found >= 0:
                    end = found + len(mark)
                    break
        chunks.append(text[start:end])
        start = end
    return chunks


def group_notes(notes, size_chars):
    """Return runs of notes joined by blank lines, each run at most `size_chars` long."""
    groups = [[]]
    room = size_chars
    for note in notes:
        if len(note) + 2 > room and groups[-1]:
            groups.append([])
            room = size_chars
        groups[-1].append(note)
        room -= len(note) + 2
    return ["\n\n".join(group) for group in groups]


def ask(template, parts, question, note_chars):
    """Return the workers' notes that say something, cut to `note_chars`; print what failed."""
    prompts = [template.format(part=part.strip(), query=question) for part in parts]
    try:
        notes, errors = worker_batch(prompts, max_tokens=NOTE_TOKENS, temperature=0), {}
    except WorkerBatchError as error:
        if all(note is None for note in error.answers):
            raise  # not "the text says nothing", but nobody could read it
        notes, errors = error.answers, error.errors
    if errors:
        print(f"{len(errors)} of {len(prompts)} failed, first: {next(iter(errors.values()))}")
    tidy = [note.strip()[:note_chars] for note in notes if note]
    return [note for note in tidy if note and note.lower().rstrip(".") != "nothing"]


def map_reduce(documents, question):
    """Return the merged answer, or None if no chunk says anything about the question."""
    frame = max(len(READ), len(MERGE)) + len(question)
    room_tokens = worker_window_tokens - NOTE_TOKENS - TEMPLATE_TOKENS
    size_chars = room_tokens * CHARS_PER_TOKEN - frame
    # Two notes must fit into one prompt, or the notes would never become fewer.
    note_chars = min(size_chars // 2 - 2, NOTE_TOKENS * 6)
    if note_chars < 100:
        raise ValueError(f"the worker's window of {worker_window_tokens} tokens is too small")
    parts = split_chunks(join_documents(documents), size_chars)
    notes = ask(READ, parts, question, note_chars)
    print(f"read {len(parts)} chunks, {len(notes)} say something")
    while len(notes) > 1:
        notes = ask(MERGE, group_notes(notes, size_chars), question, note_chars)
        print(f"merged into {len(notes)}")
    return notes[0] if notes else None


FINAL(map_reduce(context, query))
