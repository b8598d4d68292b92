"""Tasks to learn on: generators of documents with a question and the exact answer.

``writing`` makes the files; a family is a module here (the contract: ``family``).
"""

from distill.training.families.count import Count
from distill.training.families.extract import Extract
from distill.training.families.family import Family
from distill.training.families.hops import Hops
from distill.training.families.ledger import Ledger
from distill.training.families.needle import Needle

FAMILIES: dict[str, type[Family]] = {
    each.name: each for each in (Needle, Extract, Count, Hops, Ledger)
}
