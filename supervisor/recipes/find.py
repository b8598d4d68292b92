"""Recipe *find*: answer a factual question from a text that no worker could read at once.

This file is run as one cell of the REPL, just as code that a supervisor model writes. The REPL
provides `context`, `query`, `worker_batch`, `WorkerBatchError`, `worker_window_tokens`, `FINAL`.

    context ─► passages ─► score by the question's rare words ─► the best PASSAGES_ASKED
                                                                        │ one prompt each
              answer ◄─ weighted vote over all answers ◄─ worker answers ◄──┘

A small worker reads badly and answers always, so no single answer is believed: many passages
are asked, and each answer counts by how well its passage fits the question and by its rank.
"""

import math
import re
from collections import Counter
from typing import NamedTuple

PASSAGES_ASKED = 120
PASSAGE_CHARS = 800  # some six sentences: with 600 or 1,000 fewer answers were right
SHORTEST_PASSAGE_CHARS = 200
ANSWER_TOKENS = 12
QUOTED_CHARS = 300
CHARS_PER_TOKEN = 3  # a low estimate, so that a prompt never outgrows the window
# Figures found on the tuning half of examples/questions.jsonl.
NEIGHBOUR_SHARE = 0.3  # an answer often stands just before or after the words of the question
NAME_BOOST = 1.5  # a capitalised word of the question says more than another as rare
LEAST_FIT = 0.05  # also a passage without a word of the question has a say
FAR = 0.5  # the factor for an answer whose sentence has no word of the question
UNLIKELY = 0.1  # the factor for an answer that looks wrong; never 0, so every answer counts

# Words that ask, point or connect; they say nothing about where the answer stands.
IGNORED = frozenset(
    "a an and are as at be been by did do does for from had has have he her his how in is it its "
    "many much name of on or she that the their them they this to was were what when where "
    "which who whom whose why with".split()
)
NUMBER_WORDS = frozenset(
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety "
    "hundred thousand million once twice dozen score threescore fourscore".split()
)
# From the paragraph down to the word: where a passage may end, best place first.
BREAKS = ("\n\n", ".\n", "?\n", "!\n", ":\n", ";\n", ". ", "? ", "! ", "\n", " ")
# A label such as `Book 3:16` at the start of a line tempts a small worker to answer with it.
LABEL = re.compile(r"^(?:\d )?[A-Z][A-Za-z ]{1,30} \d+:\d+ ", re.MULTILINE)
SENTENCE_END = re.compile(r"(?<=[.!?;:])\s")
WORD = re.compile(r"[^\W_]+(?:['’]s)?")
# Invented, so that no example can leak an answer; a name, a number, a place and a thing.
EXAMPLES = """\
Passage: And Torvik the smith rose early, and went down to Hallam to buy iron of Bersi, \
the son of Odd. The price of it was eighteen marks, for the winter had been hard.
Question: Who sold the iron?
Answer: Bersi

Passage: In the third summer the captain counted his ships, and there were forty-one of them, \
besides the boats that the fishermen of the bay had lent to him.
Question: How many ships did the captain have?
Answer: forty-one

Passage: When the old queen had died, Mirela fled by night with her two brothers. They crossed \
the hills of Sarn on foot and came to Dunmore, where they lived in the house of a weaver.
Question: To which town did Mirela flee?
Answer: Dunmore

Passage: The children mocked him for it, but Edwin wore the red cloak every day, since his \
father had left him nothing else.
Question: What did Edwin get from his father?
Answer: red cloak

"""


class Source(NamedTuple):
    """One document of the context; `start` is its offset in the joined text."""

    name: str
    start: int


class Passage(NamedTuple):
    """The characters `start` to `end` of the joined text, and how well they fit, 0 to 1."""

    start: int
    end: int
    fit: float


class Vote(NamedTuple):
    """What the worker answered about one passage, and what that counts."""

    answer: str
    weight: float
    passage: Passage


def join_documents(documents):
    """Return one text and where each document starts in it; `documents` is str, list or dict."""
    if isinstance(documents, str):
        return documents, [Source("", 0)]
    named = documents.items() if isinstance(documents, dict) else enumerate(documents)
    parts, sources, start = [], [], 0
    for name, text in named:
        sources.append(Source(str(name), start))
        parts.append(text)
        start += len(text) + 2
    return "\n\n".join(parts), sources


def split_passages(text, size_chars, sources):
    """Yield (start, end) of neighbouring passages, each ending at the best break in its half.

    No passage holds the words of two documents: an answer must have one source.
    """
    stops = [*(source.start for source in sources[1:]), len(text)]
    for source, stop in zip(sources, stops, strict=True):
        start = source.start
        while start < stop:
            end = min(start + size_chars, stop)
            if end < stop:
                for mark in BREAKS:
                    found = text.rfind(mark, start + size_chars // 2, end)
                    if found >= 0:
                        end = found + len(mark)
                        break
            yield start, end
            start = end


def stem(word):
    """Return a crude stem: equal for the common endings of one English word."""
    word = re.sub("['’]s$", "", word.lower())
    word = re.sub("(?<=...)is(?=e|ing)", "iz", word)  # baptise, baptize
    for ending, instead in (
        ("ies", "y"), ("ied", "y"), ("ing", ""), ("eth", ""), ("est", ""),
        ("ed", ""), ("es", ""), ("s", ""), ("e", ""),
    ):  # fmt: skip
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)] + instead
    return word


def question_stems(question):
    """Return {stem: boost} for the words of the question that can tell where to look."""
    boosts = {}
    for position, word in enumerate(WORD.findall(question)):
        if word.lower() not in IGNORED:
            is_name = position > 0 and word[0].isupper()
            boosts[stem(word)] = NAME_BOOST if is_name else 1.0
    return boosts


def stems_found(text, spans, wanted):
    """Return for each span the set of `wanted` stems in it."""
    known = {}  # word -> its stem if wanted, else None: each distinct word is stemmed once
    found = []
    for start, end in spans:
        words = set(WORD.findall(text, start, end))
        for word in words - known.keys():
            known[word] = stem(word) if stem(word) in wanted else None
        found.append({known[word] for word in words} - {None})
    return found


def rank_passages(text, question, spans):
    """Return all spans as passages, the best fit first, or [] if no word of the question occurs.

    The score of a passage is the sum of log(passages / passages with the word) over the words
    of the question in it, and a share of the better neighbour's sum.
    """
    boosts = question_stems(question)
    found = stems_found(text, spans, boosts)
    counts = Counter(word for words in found for word in words)
    rarity = {word: boosts[word] * math.log(1 + len(spans) / counts[word]) for word in counts}
    own = [sum(rarity[word] for word in words) for words in found]
    padded = [0, *own, 0]
    around = [max(padded[at], padded[at + 2]) for at in range(len(own))]
    scores = [mine + NEIGHBOUR_SHARE * near for mine, near in zip(own, around, strict=True)]
    best = max(scores, default=0)
    if best == 0:
        return [], rarity
    scored = zip(spans, scores, strict=True)
    ranked = [Passage(start, end, score / best) for (start, end), score in scored]
    return sorted(ranked, key=lambda passage: -passage.fit), rarity


def build_prompt(passage_text, question):
    """Return a completion prompt: the examples are shared and cached, the passage comes first."""
    flat = " ".join(LABEL.sub("", passage_text).split())
    return f"{EXAMPLES}Passage: {flat}\nQuestion: {question}\nAnswer:"


def ask_all(prompts):
    """Return the worker's answers in order, None where one failed, and the reasons.

    If all failed there is nothing to vote on: the error is the run's, not an answer.
    """
    try:
        answers = worker_batch(
            prompts, chat=False, max_tokens=ANSWER_TOKENS, temperature=0, stop=["\n"]
        )
        return answers, {}
    except WorkerBatchError as error:
        if all(answer is None for answer in error.answers):
            raise
        return error.answers, error.errors


def tidy(answer):
    """Return the first clause of a worker's answer, without article and final marks."""
    clause = re.split(r"[,;:(]|\.(?:\s|$)", answer.strip(" \"'*-"), maxsplit=1)[0]
    return re.sub(r"^(?:the|an?)\s+", "", clause.strip(" \"'.!?"), flags=re.IGNORECASE)


def has_number(text):
    return bool(re.search(r"\d", text)) or not NUMBER_WORDS.isdisjoint(
        re.findall("[a-z]+", text.lower())
    )


def stems(text):
    return {stem(word) for word in WORD.findall(text)}


def closeness(words, passage_text, rarity):
    """Return how much of the question's words in the passage stand in a sentence with `words`."""
    sentences = [stems(one) for one in SENTENCE_END.split(passage_text)]
    there = sum(rarity.get(word, 0) for word in set().union(*sentences))
    beside = [sum(rarity.get(word, 0) for word in one) for one in sentences if words <= one]
    return max(beside, default=0) / there if there else 0


def likelihood(answer, question, passage_text, rarity):
    """Return a factor: 1 for an answer of the kind asked for, less for each thing against it."""
    words = stems(answer)
    there = stems(passage_text)
    asked = question.lower()
    factor = FAR + (1 - FAR) * closeness(words, passage_text, rarity)
    if not words <= there:  # not read from the passage
        factor *= UNLIKELY
    if words <= stems(question):  # an echo of the question
        factor *= UNLIKELY
    if re.search(r"\bhow (many|much|old|long|far|often)\b", asked):
        factor *= 1.0 if has_number(answer) else UNLIKELY
    elif re.search(r"\b(who|whom|whose|name)\b", asked):
        factor *= 1.0 if answer[:1].isupper() else UNLIKELY
    return factor


def collect_votes(text, question, passages, answers, rarity):
    """Return one vote per answered passage: the n-th best counts its fit, divided by n.

    So the best passages lead, and the many behind them can still outvote them.
    """
    votes = []
    for rank, (passage, said) in enumerate(zip(passages, answers, strict=True), 1):
        if answer := tidy(said or ""):
            passage_text = text[passage.start : passage.end]
            factor = likelihood(answer, question, passage_text, rarity)
            weight = max(passage.fit, LEAST_FIT) / rank * factor
            votes.append(Vote(answer, weight, passage))
    return votes


def tally(votes):
    """Return [(answer, weight, votes)] by falling weight; case does not tell answers apart."""
    groups = {}
    for vote in votes:
        groups.setdefault(vote.answer.lower(), []).append(vote)
    totals = []
    for group in groups.values():
        spelling = Counter(vote.answer for vote in group).most_common(1)[0][0]
        totals.append((spelling, sum(vote.weight for vote in group), group))
    return sorted(totals, key=lambda total: -total[1])


def place(passage, sources):
    """Return where a passage stands: its offset, within a named document if there are some."""
    source = [source for source in sources if source.start <= passage.start][-1]
    prefix = f"{source.name}:" if len(sources) > 1 else ""
    return f"{prefix}{passage.start - source.start}-{passage.end - source.start}"


def quote(text, vote):
    """Return what stands around the answer in its passage, on one line."""
    passage = text[vote.passage.start : vote.passage.end]
    found = max(passage.lower().find(vote.answer.lower()), 0)
    start = max(found - QUOTED_CHARS // 2, 0)
    return " ".join(passage[start : start + QUOTED_CHARS].split())


def report(text, sources, passages, totals, errors):
    """Print how much was read, the votes and the best quotations for the winner."""
    read = sum(passage.end - passage.start for passage in passages)
    print(f"asked {len(passages)} passages: {read:,} of {len(text):,} characters")
    if errors:
        print(f"{len(errors)} failed, the first because: {next(iter(errors.values()))}")
    everything = sum(weight for _, weight, _ in totals)
    for answer, weight, group in totals[:5]:
        print(f"vote {weight / everything:5.1%} from {len(group):3} passages: {answer}")
    best = sorted(totals[0][2], key=lambda vote: -vote.weight)[:3]
    for vote in best:
        print(f"at {place(vote.passage, sources)}: {quote(text, vote)}")


def choose_passages(text, question, sources):
    """Return the passages to ask about, the best first, and {stem: rarity} of the question."""
    room_tokens = worker_window_tokens - ANSWER_TOKENS
    room_chars = room_tokens * CHARS_PER_TOKEN - len(build_prompt("", question))
    if room_chars < 100:
        raise ValueError(f"the worker's window of {worker_window_tokens} tokens is too small")
    # A short text is cut finer: a vote needs voters.
    size_chars = max(SHORTEST_PASSAGE_CHARS, min(PASSAGE_CHARS, len(text) // PASSAGES_ASKED))
    spans = list(split_passages(text, min(size_chars, room_chars), sources))
    ranked, rarity = rank_passages(text, question, spans)
    return ranked[:PASSAGES_ASKED], rarity


def find(documents, question):
    """Return the answer with the most weight, or None if the text says nothing about it."""
    text, sources = join_documents(documents)
    passages, rarity = choose_passages(text, question, sources)
    if not passages:
        print("none of the words of the question occurs in the text")
        return None
    prompts = [build_prompt(text[one.start : one.end], question) for one in passages]
    answers, errors = ask_all(prompts)
    totals = tally(collect_votes(text, question, passages, answers, rarity))
    if not totals:
        print("every answer was empty")
        return None
    report(text, sources, passages, totals, errors)
    return totals[0][0]


FINAL(find(context, query))
