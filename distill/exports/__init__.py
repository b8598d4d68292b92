"""Data sets for training from the logs: ``distill export``, ``distill.export``.

``exporting`` puts the parts together; a format is a module of ``formats/`` (its contract: ``row``).
"""

from distill.exports.exporting import export
from distill.exports.made import Export

__all__ = ["Export", "export"]
