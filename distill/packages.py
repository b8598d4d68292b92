"""Packages inside the sandbox, as a user names them (``--sandbox-package numpy``)."""

import subprocess
from collections.abc import Sequence
from typing import Any

from distill.errors import InputError, SandboxError


def package_names(given: Any) -> tuple[str, ...]:
    """The names that a user gave. Raises InputError for what is no sequence of names."""
    if isinstance(given, str) or not all(isinstance(name, str) for name in given):
        raise InputError(f"sandbox_packages must be names, for example ('numpy',), not {given!r}")
    return tuple(given)


def described(names: Sequence[str]) -> tuple[str, ...]:
    """These packages and what they need, each with its version; cheap. Raises InputError."""
    if not names:
        return ()
    from distill.sandbox.packages import PackageError, resolve

    try:
        return tuple(map(str, resolve(names)))
    except PackageError as error:
        raise InputError(f"the sandbox can't have the package: {error}") from error


def prepare(names: Sequence[str]) -> None:
    """Copy them for the sandbox, where that has not been done: seconds, minutes for large ones.

    Raises InputError, SandboxError.
    """
    if not names:
        return
    from distill.sandbox import packages

    try:
        packages.prepare(names)
    except packages.PackageError as error:
        raise InputError(f"the sandbox can't have the package: {error}") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise SandboxError(
            f"the packages {', '.join(names)} can't be copied for the sandbox: {error}"
        ) from error
