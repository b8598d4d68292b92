"""SHA-256 of what makes the answers: weights, tokenizer, chat template.

Hashing reads every byte, once: the digest of a file is kept in the cache folder under its
path, size and mtime (ns), so that a later start reads nothing. Whoever rewrites a file in
place and restores its mtime to the nanosecond defeats that; delete ``hashes.json`` then.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distill.user_folders import make_private
from distill.worker_server.model import ModelFolder

CACHE_FILE = "hashes.json"
TOKENIZER_PARTS = (
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "tekken.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Hex digests; ``template`` is empty for a model without a chat template."""

    weights: str
    tokenizer: str
    template: str


def fingerprint(folder: ModelFolder, cache: Path, template: str | None = None) -> Fingerprint:
    """Hash ``folder``; about 1 s a GB the first time, then a few milliseconds.

    ``template`` is the chat template that takes the place of the folder's.
    """
    digests = _DigestCache(cache / CACHE_FILE)
    tokenizer = [folder.path / name for name in TOKENIZER_PARTS if (folder.path / name).is_file()]
    result = Fingerprint(
        weights=_combined(folder.weight_files, digests),
        tokenizer=_combined(tokenizer, digests),
        template=_template_digest(folder.path) if template is None else _text_digest(template),
    )
    digests.save()
    return result


def _combined(files: Sequence[Path], digests: "_DigestCache") -> str:
    """One digest over names and contents, so that a renamed shard is another model."""
    lines = "".join(f"{digests.of(file)}  {file.name}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _template_digest(path: Path) -> str:
    template = path / "chat_template.jinja"
    if template.is_file():
        return hashlib.sha256(template.read_bytes()).hexdigest()
    with contextlib.suppress(OSError, ValueError):
        config = json.loads((path / "tokenizer_config.json").read_bytes())
        if found := config.get("chat_template"):
            text = found if isinstance(found, str) else json.dumps(found, sort_keys=True)
            return _text_digest(text)
    return ""


def _text_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class _DigestCache:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = False
        self._known: dict[str, str] = {}
        with contextlib.suppress(OSError, ValueError):
            loaded = json.loads(path.read_bytes())
            if isinstance(loaded, dict):
                self._known = loaded

    def of(self, file: Path) -> str:
        resolved = file.resolve()
        stat = resolved.stat()
        key = f"{resolved}|{stat.st_size}|{stat.st_mtime_ns}"
        if key not in self._known:
            with resolved.open("rb") as handle:
                self._known[key] = hashlib.file_digest(handle, "sha256").hexdigest()
            self._changed = True
        return self._known[key]

    def save(self) -> None:
        """Replace the cache file; a folder that can't be written only costs the next start."""
        if not self._changed:
            return
        with contextlib.suppress(OSError):
            make_private(self._path.parent)
            handle, temporary = tempfile.mkstemp(dir=self._path.parent, prefix=".hashes-")
            with os.fdopen(handle, "w") as out:
                json.dump(self._known, out)
            Path(temporary).replace(self._path)
