"""The kernel's surface: calls that have been, or that are, ways to everything."""

from tests.security.attack import FILTERS, Attack

KERNEL = (
    Attack(
        "load a program into the kernel",
        "bpf",
        "call(321, 0, struct.pack('IIII', 2, 4, 4, 1) + bytes(112), 128)",
        {**FILTERS, "user namespace": "EPERM", "capabilities": "EPERM"},
        root_only=True,
    ),
    Attack(
        "count events",
        "perf_event_open",
        "call(298, struct.pack('IIQQQQQ', 1, 64, 0, 0, 0, 0, 0x60) + bytes(80), 0, -1, -1, 0)",
        FILTERS,
    ),
    Attack(
        "a user namespace of its own",
        "unshare: all capabilities, in a namespace",
        "in_child(lambda: call(272, 0x10000000))",
        FILTERS,
    ),
    Attack(
        "a namespace by clone",
        "clone with CLONE_NEWUSER",
        """
        pid = call(56, 17 | 0x10000000, 0, 0, 0, 0)
        if pid == 0: os._exit(0)
        os.waitpid(pid, 0)
        """,
        FILTERS,
    ),
    Attack(
        "enter a namespace",
        "setns",
        "call(308, os.open('/proc/self/ns/uts', os.O_RDONLY), 0)",
        {"no /proc": "ENOENT", **FILTERS, "capabilities": "EPERM"},
        keeps=frozenset({"user namespace", "uts namespace"}),
    ),
    Attack(
        "swap",
        "swapoff of what is no swap",
        "reached(errno.ENOENT, lambda: call(168, b'/no/swap'))",
        {**FILTERS, "user namespace": "EPERM", "capabilities": "EPERM"},
        root_only=True,
    ),
    Attack(
        "restart the machine",
        "reboot, with a number that the kernel refuses after its check of rights",
        "reached(errno.EINVAL, lambda: call(169, 1, 2, 3, 0))",
        {**FILTERS, "capabilities": "EPERM"},
        keeps=frozenset({"user namespace", "pid namespace"}),
    ),
    Attack("segments of its own", "modify_ldt", "call(154, 0, bytes(16), 16)", FILTERS),
    Attack(
        "memory without randomness",
        "personality: ADDR_NO_RANDOMIZE",
        "call(135, 0x0040000)",
        FILTERS,
    ),
    Attack("flush the disks", "quotactl: Q_SYNC", "call(179, 0x80000100, None, 0, None)", FILTERS),
    Attack(
        "write down every process",
        "acct",
        "call(163, None)",
        {**FILTERS, "user namespace": "EPERM", "capabilities": "EPERM"},
        root_only=True,
    ),
    Attack(
        "set the clock",
        "settimeofday, to the time that it is",
        """
        import time
        call(164, struct.pack('qq', int(time.time()), int(time.time() % 1 * 1e6)), None)
        """,
        {**FILTERS, "user namespace": "EPERM", "capabilities": "EPERM"},
        root_only=True,
    ),
    Attack("look at the clock's servo", "adjtimex", "call(159, bytes(208))", FILTERS),
    Attack(
        "rename the machine",
        "sethostname",
        "import socket; socket.sethostname('spoiled')",
        {**FILTERS, "capabilities": "EPERM"},
        keeps=frozenset({"user namespace", "uts namespace"}),
    ),
    Attack(
        "hang up the terminal",
        "vhangup",
        "call(153)",
        {**FILTERS, "user namespace": "EPERM", "capabilities": "EPERM"},
        root_only=True,
    ),
    Attack(
        "a filter over the filter",
        "seccomp(2): answers to the process's own calls forged",
        """
        program = ctypes.create_string_buffer(struct.pack('<HBBI', 6, 0, 0, 0x7FFF0000))
        checked(libc.prctl(38, 1, 0, 0, 0))
        call(317, 1, 0, struct.pack('HxxxxxxQ', 1, ctypes.addressof(program)))
        """,
        FILTERS,
    ),
    Attack(
        "a filter by the older call",
        "prctl(PR_SET_SECCOMP)",
        """
        program = ctypes.create_string_buffer(struct.pack('<HBBI', 6, 0, 0, 0x7FFF0000))
        told = struct.pack('HxxxxxxQ', 1, ctypes.addressof(program))
        checked(libc.prctl(38, 1, 0, 0, 0))
        checked(libc.prctl(22, 2, told, 0, 0))
        """,
        {"inner filter": "EPERM"},
    ),
    Attack(
        "a ruleset of its own",
        "Landlock: how deep rulesets can be stacked is the kernel's memory",
        "call(444, struct.pack('Q', 1), 8, 0)",
        {"inner filter": "EPERM"},
    ),
    Attack(
        "regain a capability",
        "capset",
        """
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        checked(libc.capset(header, (ctypes.c_uint32 * 6)(1 << 21, 1 << 21, 0, 0, 0, 0)))
        """,
        {"inner filter": "EPERM", "capabilities": "EPERM"},
        keeps=frozenset({"user namespace"}),
    ),
    Attack(
        "calls of 32 bits",
        "int 0x80: another table of numbers",
        """
        import mmap
        code = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 7)
        code[:8] = bytes.fromhex('b814000000cd80c3')
        run = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
        assert run() == os.getpid()
        """,
        {"inner filter": "SIGSYS", "outer filter": "SIGSYS"},
    ),
    Attack(
        "a call newer than the filters",
        "a number beyond the newest that they know (mseal)",
        "call(462, 0, 0, 0)",
        {"inner filter": "ENOSYS", "outer filter": "ENOSYS"},
    ),
    Attack(
        "a quarter of the process's past",
        "lookup of file systems by number (sysfs, an old call)",
        "call(139, 3)",
        FILTERS,
    ),
)
