"""Which versions of an adapter the driver takes, by what workers say of them; no process."""

from distill.supervisor.adapters import Served, _Load
from tests.supervisor.test_suspects import ready


def test_files_are_compared_with_those_of_a_worker_that_has_ended_since() -> None:
    load = _Load(Served("tuned", 1, "m", "/adapter"), [ready("w0"), ready("w1")])
    load.settle("w0", "a hash", None)
    load.forget("w0")
    load.settle("w1", "another", None)
    assert load.is_done.is_set()
    assert load.served.workers == ()
    assert load.served.refused == {"w1": "the files at /adapter are others there than at w0"}
