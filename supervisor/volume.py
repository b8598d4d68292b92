"""What is long in a line of the log, as JSON: texts and token ids.

A line is a struct that msgspec encodes; these are its fields where a fast encoder pays, encoded
before. To every reader they are the same text and the same numbers.
"""

from typing import Any

import msgspec
import orjson

from distill.supervisor.text import printable_json


def text_json(value: Any) -> Any:
    """A text, or a list or dict of texts, for a field of that type; surrogates made printable."""
    try:
        return msgspec.Raw(orjson.dumps(value))
    except orjson.JSONEncodeError:
        return msgspec.Raw(orjson.dumps(printable_json(value)))


def ids_json(packed: bytes | None) -> Any:
    """Token ids (``worker_link.pack_ids``), for a field of numbers.

    No number becomes an object: 5,000 of them would be most of what an answer costs.
    """
    if packed is None:
        return None
    import numpy as np  # a tenth of a second: for those who get ids

    ids = np.frombuffer(packed, "<u4")
    return msgspec.Raw(orjson.dumps(ids, option=orjson.OPT_SERIALIZE_NUMPY))
