"""What ``--redact`` finds by name: addresses, numbers with check digits, keys of well-known forms.

Expressions are RE2's; where a form alone says too little, a check says what of a match is meant.
"""

import bisect
import ipaddress
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

CARD_DIGITS = range(13, 20)
"""Of a card number: ISO/IEC 7812-1."""

Span = tuple[int, int]
"""Where something begins and ends, in bytes."""


class Pattern(NamedTuple):
    """A ready pattern. ``found`` says which parts of what matches are meant; None: the last group
    of the expression, or all.
    """

    expression: str
    found: Callable[[bytes], Iterator[Span]] | None = None


_DOUBLED = bytes(sum(divmod(2 * (each - 48), 10)) if 48 <= each < 58 else 0 for each in range(256))
"""The sum of the digits of twice a digit, by its character."""


def _luhn(digits: bytes) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812-1, annex B)."""
    plain, doubled = digits[::-1][::2], digits[::-1][1::2].translate(_DOUBLED)
    return (sum(plain) - 48 * len(plain) + sum(doubled)) % 10 == 0


def _cards(text: bytes) -> Iterator[Span]:
    """Card numbers in a row of groups of digits: the longest from each group on that is one."""
    groups = [match.span() for match in re.finditer(rb"\d+", text)]
    digits = text.replace(b" ", b"").replace(b"-", b"")
    ends = list(itertools.accumulate(end - start for start, end in groups))
    first = 0
    while first < len(groups):
        before = ends[first - 1] if first else 0
        low = bisect.bisect_left(ends, before + CARD_DIGITS[0])
        high = bisect.bisect_right(ends, before + CARD_DIGITS[-1])
        for last in range(high - 1, max(low, first) - 1, -1):
            card = digits[before : ends[last]]
            if len(set(card)) > 1 and _luhn(card):
                yield groups[first][0], groups[last][1]
                first = last
                break
        first += 1


def _ibans(text: bytes) -> Iterator[Span]:
    """The longest beginning of a match whose check digits are right (ISO 13616)."""
    for end in range(len(text), 14, -1):
        plain = text[:end].replace(b" ", b"").upper().decode()
        number = "".join(str(int(each, 36)) for each in plain[4:] + plain[:4])
        if text[end - 1 : end] != b" " and len(plain) >= 15 and int(number) % 97 == 1:
            yield 0, end
            return


def _phones(text: bytes) -> Iterator[Span]:
    """As many digits as a telephone number has (ITU-T E.164)."""
    if 8 <= len(re.sub(rb"\D", b"", text)) <= 15:
        yield 0, len(text)


def _addresses(text: bytes) -> Iterator[Span]:
    """What is an address of IPv6; of words with colons only those with a digit are any."""
    core = text.rstrip(b":") if not text.endswith(b"::") else text
    try:
        ipaddress.IPv6Address(core.decode())
    except ValueError:
        return
    if re.search(rb"\d", core):
        yield 0, len(core)


_BYTE = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_SECRETS = (
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?-----END [A-Z ]*PRIVATE KEY-----",
    r"\b(?:sk|pk|rk)[-_][\w-]{16,}",  # OpenAI, Anthropic, Stripe
    r"\bgh[a-z]_\w{20,}",
    r"\bgithub_pat_\w{20,}",
    r"\bglpat-[\w-]{16,}",
    r"\bhf_[A-Za-z0-9]{20,}",
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",  # AWS
    r"\bAIza[\w-]{30,}",  # Google
    r"\bxox[a-z]-[\w-]{10,}",  # Slack
    r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*",  # a JSON Web Token
)
_NAMED = (
    r"(?i)(?:api[_ -]?key|access[_ -]?key|secret|token|passw(?:or)?d|passphrase|credentials?)"
    r"""["']?\s{0,3}[:=]\s{0,3}["']?([^\s"',;&]{6,})"""
)
READY: Mapping[str, tuple[Pattern, ...]] = {
    "email": (Pattern(r"[\pL\pN._%+-]+@[\pL\pN-]+(?:\.[\pL\pN-]+)*\.[\pL]{2,}"),),
    "phone": (
        Pattern(r"\+\d[\d ()./-]{6,22}\d", _phones),
        Pattern(r"\(?\b\d{3}\)?[ .-]\d{3}[ .-]\d{4}\b"),
        Pattern(r"\b0\d{1,4}[ /-]\d[\d -]{4,12}\d\b", _phones),
    ),
    "card": (Pattern(r"\b\d(?:[ -]?\d){12,30}\b", _cards),),
    "iban": (Pattern(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b", _ibans),),
    "ip": (
        Pattern(rf"\b{_BYTE}(?:\.{_BYTE}){{3}}\b"),
        Pattern(
            r"(?:\b[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]{0,4}:|::)[0-9A-Fa-f:]*(?:\d+\.\d+\.\d+\.\d+)?",
            _addresses,
        ),
    ),
    "secret": (
        Pattern("|".join(_SECRETS)),
        Pattern(_NAMED),
        Pattern(r"(?i)\bbearer\s+([\w.~+/=-]{12,})"),
        Pattern(r"\w://[^\s/:@]*:([^\s/@]+)@"),
    ),
}
"""By name. What they find is likely what they are named after; none of them finds all there is."""
