"""Recipe *ledger*: a short program for each question that the task family *ledger* asks.

An entry is a line of the text, and says which buyer of which town bought what, for how many marks.
Code alone looks up, counts and adds; what was bought is read by a worker.
"""

import re
from dataclasses import dataclass

from distill.errors import ModelError


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of question: its ``wordings``, and the code that answers it, with their fields."""

    wordings: tuple[str, ...]
    code: str

    def asked(self, question: str) -> dict[str, str] | None:
        """The fields of a question of this kind, None if it is another's."""
        for wording in self.wordings:
            named = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[\\w ]+)", re.escape(wording))
            if found := re.fullmatch(named, question):
                return found.groupdict()
        return None


KINDS = {
    "price": Kind(
        (
            "How many marks did {person} pay?",
            "What did {person} pay, in marks?",
            "For how many marks did {person} buy?",
        ),
        """\
import re
for entry in context.splitlines():
    if '{person}' in entry:
        FINAL(re.search(r'(\\d+) marks', entry)[1])""",
    ),
    "goods": Kind(
        (
            "What did {person} buy?",
            "Which goods were bought by {person}?",
            "What was it that {person} bought?",
        ),
        """\
import re
found = re.search(r'{person} bought [^.]*', context)[0]
shot = 'Ann of Ely bought bags of rye for 9 marks. Goods: bags of rye\\n'
FINAL(worker(shot + found + '. Goods:', chat=False, max_tokens=12, stop=['\\n']).strip())""",
    ),
    "count": Kind(
        (
            "How many buyers were of {town}?",
            "How many people of {town} bought something?",
            "In how many entries is the buyer of {town}?",
        ),
        """\
found = [entry for entry in context.splitlines() if 'of {town} bought' in entry]
FINAL(str(len(found)))""",
    ),
    "sum": Kind(
        (
            "How many marks did the buyers of {town} pay in all?",
            "What did the buyers of {town} pay together, in marks?",
            "How much was paid, in marks, by all who were of {town}?",
        ),
        """\
import re
total = 0
for entry in context.splitlines():
    if 'of {town} bought' in entry:
        total += int(re.search(r'(\\d+) marks', entry)[1])
FINAL(str(total))""",
    ),
    "most": Kind(
        (
            "Who of {town} paid the most?",
            "Which buyer of {town} gave the most marks?",
            "Of the buyers of {town}, who paid the highest price?",
        ),
        """\
import re
paid = re.findall(r'(\\w+) of {town} bought .* for (\\d+) marks', context)
FINAL(max(paid, key=lambda each: int(each[1]))[0])""",
    ),
}


def program(question: str) -> str:
    """The code for a question. Raises ModelError for one that is of no kind."""
    for kind in KINDS.values():
        if (fields := kind.asked(question)) is not None:
            return kind.code.format(**fields)
    raise ModelError(
        "recipe:ledger has no program for this question: it knows those of the task family "
        "`ledger` (distill train tasks ledger)"
    )
