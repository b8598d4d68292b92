"""A keeper whose jail is started ahead, so that a run finds one ready and waits for none.

It stands by in a process that is likely to have another run: one with a resident engine, or
one that has had a run already. A run takes it for itself; the next is made a moment after the
run's own jail is ready, so that it takes no time from the first cell.
"""

from distill.protocol import sandbox_link as wire
from distill.supervisor.driver import Driver
from distill.supervisor.keeper_process import KeeperProcess, Listener

PAUSE_S = 0.25
"""A new keeper uses a core for as long: a first cell is over by then, and a program that ends
after its run has started nothing more."""
LOSSES_LIMIT = 3
"""Of keepers in a row that died while they stood by; the next run may make another."""


class Standby:
    """At most one keeper that waits. All methods are called on the driver's loop."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self._keeper: KeeperProcess | None = None
        self._packages: tuple[str, ...] = ()
        self._tier: wire.Wanted = "auto"
        self._is_wanted = False
        self._losses = 0

    def take(
        self, listener: Listener, packages: tuple[str, ...] = (), tier: wire.Wanted = "auto"
    ) -> KeeperProcess:
        """The keeper that waits, or a new one; from now on it is the listener's alone.

        ``packages`` are what its jails hold, ``tier`` how they are to be confined; the next one
        is made for the same.
        """
        keeper, self._keeper = self._keeper, None
        self._losses = 0
        self._packages, self._tier = packages, tier
        if keeper is not None and (keeper.packages, keeper.tier) != (packages, tier):
            keeper.end()
        if keeper is None or keeper.state == "gone":
            return KeeperProcess(self.driver, listener, packages, tier)
        keeper.listener = listener
        return keeper

    def expect_runs(
        self, packages: tuple[str, ...] | None = None, tier: wire.Wanted | None = None
    ) -> None:
        """Have a keeper stand by from now on, for jails with these packages, of this tier."""
        self._is_wanted = True
        self._packages = self._packages if packages is None else packages
        self._tier = tier or self._tier
        self.prepare()

    def expect_runs_soon(self) -> None:
        """The same after a pause, for a program that may be about to end."""
        if not self._is_wanted:
            self.driver.loop.call_later(PAUSE_S, self.expect_runs)

    def prepare_soon(self) -> None:
        """The same as ``prepare``, after the pause."""
        self.driver.loop.call_later(PAUSE_S, self.prepare)

    def prepare(self) -> None:
        """Make the next keeper, if one is wanted and none waits."""
        waits = self._keeper is not None and self._keeper.state != "gone"
        if self._is_wanted and not waits and self.driver.is_usable:
            self._keeper = KeeperProcess(self.driver, self, self._packages, self._tier)

    # -- what the keeper tells while it waits

    def on_jail_message(self, message: wire.FromKeeper, before: str) -> None:
        """A jail that was told nothing has nothing to say."""

    def on_keeper_gone(self, why: str, before: str) -> None:  # noqa: ARG002  (it did nothing)
        """It died: another takes its place."""
        assert self._keeper is not None
        self.driver.event("standby_lost", self._keeper.producer, why=why)
        self._keeper = None
        self._losses += 1
        if self._losses < LOSSES_LIMIT:
            self.prepare()


_standby: Standby | None = None


def of(driver: Driver) -> Standby:
    """The driver's own; there is one driver a process."""
    global _standby  # noqa: PLW0603  (as the driver itself)
    if _standby is None or _standby.driver is not driver:
        _standby = Standby(driver)
    return _standby
