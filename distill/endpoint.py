"""Where an endpoint is and with which key, such that no secret reaches an error or a log."""

from typing import NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

from distill.errors import InputError

SECRET_CHARACTERS = 4
"""A shorter key is a placeholder; to blot it out would only garble the errors."""


class Address(NamedTuple):
    """Where an endpoint is. ``where`` may be shown: it has no password and no query."""

    url: str | None
    where: str
    auth: tuple[str, str] | None
    secrets: tuple[str, ...]


def host_of(url: str) -> str:
    """``host`` or ``host:port`` of an address, without its password."""
    return urlsplit(url).netloc.rpartition("@")[2]


def address_of(base_url: str | None, name: str) -> Address:
    """An address taken apart, so that a password in it reaches no error and no log."""
    if base_url is None:
        return Address(None, "the OpenAI API", None, ())
    shown = base_url.rpartition("@")[2]
    if not base_url.startswith(("http://", "https://")):
        raise InputError(f"{name} {shown} is no URL: it begins with http:// or https://")
    try:
        parts = urlsplit(base_url)
        if not parts.hostname or parts.port == 0:
            raise ValueError
    except ValueError:  # its text has the part that is wrong, which may be of a password
        raise InputError(f"{name} is no URL: its host or its port can't be read") from None
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2])
    where = urlunsplit(bare._replace(query="", fragment=""))
    user, password = parts.username or "", parts.password or ""
    auth = (unquote(user), unquote(password)) if user or password else None
    return Address(urlunsplit(bare), where, auth, (password, unquote(password)))


def usable_key(key: str, name: str) -> str:
    """The key without blanks around it, if HTTP can carry it; the error never shows it."""
    key = key.strip()
    if not (key.isascii() and key.isprintable()):
        raise InputError(
            f"the key can't be sent: it has a line break or a character that is not printable "
            f"ASCII; check {name}"
        )
    return key


def spellings(*secrets: str) -> tuple[str, ...]:
    """Secrets as errors may spell them: as they are, and escaped; the longest first."""
    texts = {text for one in secrets for text in (one, repr(one)[1:-1])}
    return tuple(sorted((t for t in texts if len(t) >= SECRET_CHARACTERS), key=len, reverse=True))
