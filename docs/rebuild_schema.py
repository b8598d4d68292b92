"""Write distill/schema/*.schema.json from the records: `python docs/rebuild_schema.py [FOLDER]`."""

import inspect
import json
import sys
from pathlib import Path
from typing import Any

from distill.traces.records import LOG_RECORDS, json_schema

FOLDER = Path(__file__).resolve().parents[1] / "distill" / "schema"


def schema_texts() -> dict[str, str]:
    """The name of each file and what belongs into it; the same under every Python."""
    return {
        log.replace(".jsonl", ".schema.json"): json.dumps(_tidy(json_schema(log)), indent=1) + "\n"
        for log in LOG_RECORDS
    }


def _tidy(part: Any) -> Any:
    """``part`` with docstrings in one form: from 3.13 on Python strips their indentation."""
    if isinstance(part, dict):
        tidied = {key: _tidy(value) for key, value in part.items()}
        if isinstance(tidied.get("description"), str):
            tidied["description"] = inspect.cleandoc(tidied["description"])
        return tidied
    return [_tidy(one) for one in part] if isinstance(part, list) else part


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in schema_texts().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
