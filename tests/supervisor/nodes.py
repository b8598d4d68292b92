"""Machines, as far as the network goes: namespaces, each with a link of its own to this one."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@dataclass(frozen=True)
class Node:
    """A namespace; this machine is ``gateway`` to it."""

    name: str
    gateway: str
    address: str

    @property
    def before(self) -> list[str]:
        """In front of a command that shall run there."""
        return ["ip", "netns", "exec", self.name]

    def link(self, state: str) -> None:
        """Cut the link (``down``), or mend it (``up``)."""
        ip("link", "set", f"{self.name}-h", state)


@contextmanager
def nodes(count: int) -> Iterator[list[Node]]:
    """So many, and a skip where they can't be made."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and iproute2")
    made: list[Node] = []
    try:
        for number in range(count):
            mark = os.getpid() % 60_000
            base = f"10.{77 + number}.{mark // 256}.{mark % 256 // 4 * 4}".rsplit(".", 1)
            first = int(base[1])
            node = Node(f"d{mark}n{number}", f"{base[0]}.{first + 1}", f"{base[0]}.{first + 2}")
            try:
                ip("netns", "add", node.name)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no network namespace can be made here: {error.stderr!r}")
            made.append(node)
            inside = f"{node.name}-n"
            ip("link", "add", f"{node.name}-h", "type", "veth", "peer", "name", inside)
            ip("link", "set", inside, "netns", node.name)
            ip("addr", "add", f"{node.gateway}/30", "dev", f"{node.name}-h")
            ip("link", "set", f"{node.name}-h", "up")
            ip("-n", node.name, "addr", "add", f"{node.address}/30", "dev", inside)
            ip("-n", node.name, "link", "set", inside, "up")
            ip("-n", node.name, "link", "set", "lo", "up")
            ip("-n", node.name, "route", "add", "default", "via", node.gateway)
        yield made
    finally:
        for node in made:
            # The link by itself: with its namespace it would go when the kernel has time.
            subprocess.run(
                ["ip", "link", "del", f"{node.name}-h"], check=False, capture_output=True
            )
            ip("netns", "del", node.name)
