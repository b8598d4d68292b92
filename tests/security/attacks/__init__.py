"""The attacks on the machine, one table for each area."""

from tests.security.attack import Attack
from tests.security.attacks.cpu import CPU
from tests.security.attacks.descriptors import DESCRIPTORS
from tests.security.attacks.disk import DISK
from tests.security.attacks.files import FILES
from tests.security.attacks.kernel import KERNEL
from tests.security.attacks.memory import MEMORY
from tests.security.attacks.network import NETWORK
from tests.security.attacks.processes import PROCESSES
from tests.security.attacks.secrets import SECRETS

AREAS: dict[str, tuple[Attack, ...]] = {
    "files": FILES,
    "secrets": SECRETS,
    "network": NETWORK,
    "processes": PROCESSES,
    "memory": MEMORY,
    "cpu": CPU,
    "disk": DISK,
    "descriptors": DESCRIPTORS,
    "kernel": KERNEL,
}
ATTACKS: dict[str, Attack] = {attack.name: attack for area in AREAS.values() for attack in area}

NOT_COUNTED = {
    "kexec_load, kexec_file_load": "the kernel here is built without CONFIG_KEXEC",
    "AF_ALG (the kernel's ciphers by socket)": "built without CONFIG_CRYPTO_USER_API",
    "x32 calls (bit 30 of the number)": "built without CONFIG_X86_X32: ENOSYS with and without",
    "AF_BLUETOOTH, AF_TIPC": "built without CONFIG_BT and CONFIG_TIPC",
    "init_module, finit_module, delete_module": "built without CONFIG_MODULES",
    "iopl, ioperm": "built without CONFIG_X86_IOPL_IOPERM",
    "/dev/mem": "built without CONFIG_DEVMEM",
    "huge pages outside the memory limit": "none are reserved here (vm.nr_hugepages is 0)",
}
"""What could not be shown to succeed here, and why; the filters' lists deny them all the same."""
