"""What models cost: a table that ships with distill, and what its user writes before it."""

import tomllib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec

from distill.errors import InputError
from distill.models import Usage
from distill.user_folders import config_folder

MILLION = 1_000_000
HOUR_S = 3600.0

Dollars = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class TokenPrice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Dollars for a million tokens; what the cache holds costs as all input where nobody says."""

    input: Dollars
    output: Dollars
    cached_input: Dollars | None = None
    cache_write: Dollars | None = None

    def dollars(self, usage: Usage) -> float:
        """What these tokens cost. Reasoning tokens are part of the output."""
        cached = min(usage.cached_input_tokens, usage.input_tokens)
        written = min(usage.cache_write_tokens, usage.input_tokens - cached)
        return (
            (usage.input_tokens - cached - written) * self.input
            + cached * (self.input if self.cached_input is None else self.cached_input)
            + written * (self.input if self.cache_write is None else self.cache_write)
            + usage.output_tokens * self.output
        ) / MILLION

    @property
    def most_input(self) -> float:
        """A million tokens of input at the dearest."""
        return max(self.input, self.cached_input or 0.0, self.cache_write or 0.0)


class LongPrice(TokenPrice, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a call costs whose prompt has more than ``above_tokens``."""

    above_tokens: Annotated[int, msgspec.Meta(ge=1)]


class Price(TokenPrice, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a model's tokens cost. ``source`` and ``date`` say where that was read, and when;
    ``max_output_tokens`` is the most that the model writes, where that is little.
    """

    models: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    endpoint: str = "*"
    long: LongPrice | None = None
    max_output_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    source: str = ""
    date: str = ""

    def of_prompt(self, prompt_tokens: int) -> TokenPrice:
        """What a call with such a prompt is counted by."""
        is_long = self.long is not None and prompt_tokens > self.long.above_tokens
        return self.long if self.long is not None and is_long else self

    def of_call(self, usage: Usage) -> float:
        """The dollars of one call."""
        return self.of_prompt(usage.input_tokens).dollars(usage)

    def most(self, prompt_tokens: int, completion_tokens: int) -> float:
        """The dollars that a call may cost, whatever the cache does."""
        price = self.of_prompt(prompt_tokens)
        return (prompt_tokens * price.most_input + completion_tokens * price.output) / MILLION

    def matches(self, model: str, endpoint: str) -> bool:
        """Whether it is the price of this model there; an endpoint is ``host`` or ``host:port``."""
        there = any(fnmatchcase(name, self.endpoint) for name in (endpoint, _host(endpoint)))
        return there and any(fnmatchcase(model, name) for name in self.models)


FREE = Price(models=("*",), input=0.0, output=0.0)


class DevicePrice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Dollars for an hour of one device, whose name is ``device`` (with * and ?)."""

    device: str
    gpu_hour: Dollars
    source: str = ""
    date: str = ""


class PriceTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Prices; the first that matches holds."""

    models: tuple[Price, ...] = ()
    devices: tuple[DevicePrice, ...] = ()

    def before(self, other: "PriceTable") -> "PriceTable":
        """These, and what the other says of anything else."""
        return PriceTable(
            models=(*self.models, *other.models), devices=(*self.devices, *other.devices)
        )

    def price(self, model: str, endpoint: str | None) -> Price | None:
        """What a model costs at an endpoint; None: nobody knows.

        The endpoint is "" for what runs in this process, None where nobody knows where it is
        asked. What is local is free unless the table has a price of it.
        """
        for price in self.models:
            if price.matches(model, endpoint or ""):
                return price
        return FREE if endpoint is not None and is_local(endpoint) else None

    def device_dollars(self, device: str, gpu_s: float) -> float:
        """What a worker server's time cost: ``device`` names one or several, with + between."""
        names = device.split("+")
        return sum(self._gpu_hour(name) for name in names) / len(names) * gpu_s / HOUR_S

    def _gpu_hour(self, device: str) -> float:
        return next((d.gpu_hour for d in self.devices if fnmatchcase(device, d.device)), 0.0)


Prices = PriceTable | Mapping[str, Any] | str | Path
"""A table, what a TOML file of one holds, or such a file's name."""


def is_local(endpoint: str) -> bool:
    """Whether nobody sends a bill for it: this process, this machine, or a network of one's own."""
    host = _host(endpoint)
    try:
        address: IPv4Address | IPv6Address = ip_address(host)
    except ValueError:
        own = ("localhost", "local", "internal", "lan")
        return "." not in host or host.rpartition(".")[2] in own
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_private


def _host(endpoint: str) -> str:
    """The host of ``host``, ``host:port`` or ``[address]:port``; an address may stand bare."""
    if endpoint.count(":") > 1 and not endpoint.startswith("["):
        return endpoint
    return urlsplit(f"//{endpoint}").hostname or ""


def price_table(given: Prices | None = None) -> PriceTable:
    """All prices: those given (a file's name, or what such a file holds), the user's, distill's.

    Raises InputError for what is no table.
    """
    table = _shipped()
    if (path := config_folder() / "prices.toml").is_file():
        table = _read(path).before(table)
    if isinstance(given, PriceTable):
        return given.before(table)
    if isinstance(given, str | Path):
        return _read(Path(given).expanduser()).before(table)
    return table if given is None else _table(given, "prices").before(table)


@cache
def _shipped() -> PriceTable:
    """distill's own; to read it is 10 ms on the loop, which all runs would wait for."""
    text = resources.files("distill").joinpath("prices.toml").read_text("utf-8")
    return _table(tomllib.loads(text), "distill's own prices.toml")


def _read(path: Path) -> PriceTable:
    try:
        return _table(tomllib.loads(path.read_text("utf-8")), str(path))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"the prices in {path} can't be read: {error}") from error


def _table(data: Any, name: str) -> PriceTable:
    try:
        return msgspec.convert(data, PriceTable, strict=False)
    except msgspec.ValidationError as error:
        raise InputError(
            f"{name} is no table of prices: {error}. It has [[models]] with models, input and "
            "output, and [[devices]] with device and gpu_hour; distill/prices.toml is an example"
        ) from error
