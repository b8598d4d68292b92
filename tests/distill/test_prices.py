"""The price table: what ships, what a user writes before it, and what is counted by it."""

from pathlib import Path
from typing import Any

import pytest

from distill.errors import InputError
from distill.models import Usage
from distill.prices import is_local, price_table

NAMED = [
    ("gpt-5-mini", "api.openai.com", 0.25),
    ("gpt-5-mini-2025-08-07", "api.openai.com", 0.25),
    ("gpt-5.4-mini", "api.openai.com", 0.75),
    ("claude-opus-4-6", "api.anthropic.com", 5.0),
    ("gpt-5-mini", "proxy.example.com", None),
    ("gpt-5-minimal", "api.openai.com", None),
    ("anything", "127.0.0.1:8000", 0.0),
    ("anything", "", 0.0),
    ("anything", None, None),
]


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of this user's settings."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "distill").mkdir()
    return tmp_path / "distill"


@pytest.mark.parametrize(
    ("model", "where", "dollars"), NAMED, ids=[f"{model}@{where}" for model, where, _ in NAMED]
)
def test_models_are_found_by_name_and_endpoint(
    model: str, where: str | None, dollars: float | None
) -> None:
    price = price_table().price(model, where)
    assert (price and price.input) == dollars


def test_every_price_that_ships_says_where_it_was_read_and_when() -> None:
    table = price_table()
    assert table.models
    assert all(price.source and price.date >= "2026" for price in table.models)


def test_tokens_are_counted_once_each_and_reasoning_is_output() -> None:
    row = {"input": 10, "cached_input": 1, "cache_write": 12, "output": 100}
    price = price_table({"models": [{"models": ["m"], **row}]}).price("m", "x.y")
    assert price is not None
    usage = Usage(1000, 50, cached_input_tokens=600, cache_write_tokens=100, reasoning_tokens=40)
    assert price.of_call(usage) == pytest.approx((300 * 10 + 600 + 100 * 12 + 50 * 100) / 1e6)
    assert price.most(1000, 50) == pytest.approx((1000 * 12 + 50 * 100) / 1e6)


def test_a_long_prompt_has_its_own_price() -> None:
    long = {"above_tokens": 1000, "input": 20, "output": 30}
    rows = {"models": [{"models": ["m"], "input": 10, "output": 15, "long": long}]}
    price = price_table(rows).price("m", "x.y")
    assert price is not None
    assert price.of_call(Usage(1000, 10)) == pytest.approx((1000 * 10 + 10 * 15) / 1e6)
    assert price.of_call(Usage(1001, 10)) == pytest.approx((1001 * 20 + 10 * 30) / 1e6)


def test_a_users_prices_go_before_ours_and_a_runs_before_both(config: Path, tmp_path: Path) -> None:
    row = '[[models]]\nmodels = ["gpt-5-mini"]\noutput = 1\ninput = '
    (config / "prices.toml").write_text(f"{row}7\n[[devices]]\ndevice = '*H100*'\ngpu_hour = 3.6\n")
    own = price_table().price("gpt-5-mini", "api.openai.com")
    assert own is not None
    assert own.input == 7
    (tmp_path / "run.toml").write_text(f"{row}9\n")
    table = price_table(tmp_path / "run.toml")
    given = table.price("gpt-5-mini", "api.openai.com")
    assert given is not None
    assert given.input == 9
    assert table.device_dollars("NVIDIA H100 80GB+NVIDIA H100 80GB", 20.0) == pytest.approx(0.02)
    assert table.device_dollars("cpu", 20.0) == 0


BAD: dict[str, Any] = {
    "no input": {"models": [{"models": ["m"], "output": 1}]},
    "an unknown field": {"models": [{"models": ["m"], "input": 1, "output": 1, "outptu": 2}]},
    "below zero": {"models": [{"models": ["m"], "input": -1, "output": 1}]},
    "no models": {"models": [{"models": [], "input": 1, "output": 1}]},
}


@pytest.mark.parametrize("table", BAD.values(), ids=BAD)
def test_what_is_no_table_is_refused(table: Any) -> None:
    with pytest.raises(InputError, match="no table of prices"):
        price_table(table)


def test_a_file_that_is_no_toml_is_named(config: Path) -> None:
    (config / "prices.toml").write_text("[[models")
    with pytest.raises(InputError, match=r"prices in .*/prices.toml can't be read"):
        price_table()


def test_whose_network_an_endpoint_is_in() -> None:
    own = ("", "localhost:8000", "127.0.0.1:1", "10.1.2.3", "[::1]:80", "node7", "gpu.lan:80")
    assert all(map(is_local, own))
    assert all(map(is_local, ("::1", "[fd00::1]:8000", "[::ffff:10.0.0.1]")))
    assert not any(map(is_local, ("api.openai.com", "8.8.8.8:443", "vllm.example.com:8000")))
    public = ("[2001:4860::1]:8000", "[2001:4860::1]", "2001:4860::1", "[::ffff:8.8.8.8]:80")
    assert not any(map(is_local, public))


def test_a_price_is_of_an_address_whatever_its_port() -> None:
    given = {"models": ["*"], "endpoint": "2001:4860::1", "input": 1.0, "output": 1.0}
    price = price_table({"models": [given]}).price("m", "[2001:4860::1]:8000")
    assert price is not None
    assert price.input == 1.0
