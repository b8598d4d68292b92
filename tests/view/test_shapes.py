"""Where the code of a cell stands in the reply that it came from."""

import pytest

from distill.view.shapes import fenced

PLACES = {
    "fenced": ("I look.\n```repl\nx = 1\n```\nDone.", "x = 1", "```repl\nx = 1\n```"),
    "indented": ("I look.\n  ~~~\nx = 1\n  ~~~  \nDone.", "x = 1\n", "  ~~~\nx = 1\n  ~~~  "),
    "at the beginning": ("```python\nx = 1\n```", "\nx = 1", "```python\nx = 1\n```"),
    "without an end": ("```python\nx = 1", "x = 1", "```python\nx = 1"),
    "without a fence": ("so x = 1, then", "x = 1", "x = 1"),
    "before other words": ("```\nx = 1\n``` and", "x = 1", "```\nx = 1"),
    "after other words": ("see ```\nx = 1\n```", "x = 1", "x = 1\n```"),
}


@pytest.mark.parametrize("case", PLACES)
def test_code_is_found_with_its_fence(case: str) -> None:
    reply, code, wanted = PLACES[case]
    found = fenced(reply, code)
    assert found is not None
    assert reply[slice(*found)] == wanted


def test_any_code_is_looked_for_in_no_time() -> None:
    """Searches that go back over what they have seen would take hours here."""
    fences = "`" * 1_000_000
    assert fenced(fences, "x") is None
    assert fenced(f"{fences}\nx\n{fences} y", "x") == (0, len(fences) + 2)
    assert fenced("a" * 2_000_000, "a" * 1_000_000 + "b") is None
    assert fenced("short", "y" * 20_000_000) is None
