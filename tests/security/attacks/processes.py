"""Making processes and programs, and laying hands on others."""

from collections.abc import Mapping

from tests.security.attack import FILTERS, Attack
from tests.security.layers import ALL, Layer

OTHERS: Mapping[Layer, str] = {**FILTERS, "pid namespace": "ESRCH"}
RULING: Mapping[Layer, str] = {**OTHERS, "user namespace": "EPERM", "capabilities": "EPERM"}

PROCESSES = (
    Attack("fork", "fork", "in_child(lambda: None)", FILTERS),
    Attack(
        "vfork",
        "vfork: the child borrows the parent's memory",
        """
        import mmap
        code = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 7)
        # vfork by hand: the child exits at once, the parent returns what the kernel said.
        code[:] = bytes.fromhex('b83a0000000f0585c07401c3b83c00000031ff0f05').ljust(4096, b'\\xcc')
        run = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
        result = run()
        if result < 0: raise OSError(-result, 'vfork')
        os.waitpid(result, 0)
        """,
        FILTERS,
    ),
    Attack(
        "clone without a thread",
        "clone(2) with the flags of a process",
        """
        pid = call(56, 17, 0, 0, 0, 0)
        if pid == 0: os._exit(0)
        os.waitpid(pid, 0)
        """,
        FILTERS,
    ),
    Attack(
        "clone3",
        "flags in memory, where a filter can't look",
        """
        pid = call(435, struct.pack('11Q', 0, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0), 88)
        if pid == 0: os._exit(0)
        os.waitpid(pid, 0)
        """,
        {"inner filter": "ENOSYS", "outer filter": "ENOSYS"},
    ),
    Attack(
        "spawn",
        "posix_spawn, as subprocess does it",
        """
        program = ['python3', '-I', '-S', '-c', '']
        os.waitpid(os.posix_spawn(PYTHON + '/bin/python3', program, os.environ), 0)
        """,
        {**FILTERS, "Landlock": "EACCES"},
    ),
    Attack(
        "become another program",
        "execve in place",
        """
        program = ['python3', '-I', '-S', '-c', 'import os; os._exit(7)']
        os.execve(PYTHON + '/bin/python3', program, {})
        """,
        {"inner filter": "EPERM", "Landlock": "EACCES"},
        worked="exit",
    ),
    Attack(
        "run a script of its own",
        "#! in the scratch folder",
        """
        with open('script', 'w') as file: file.write('#!' + PYTHON + '/bin/python3\\n')
        os.chmod('script', 0o755)
        os.execve('./script', ['script'], {})
        """,
        {"inner filter": "EPERM", "scratch noexec": "EACCES", "Landlock": "EACCES"},
        worked="exit",
    ),
    Attack(
        "run a program from memory",
        "execveat of a descriptor, no path",
        """
        program = os.open(PYTHON + '/bin/python3', os.O_PATH)
        arguments = (ctypes.c_char_p * 3)(b'python3', b'-V', None)
        call(322, program, b'', arguments, None, 0x1000)
        """,
        {**FILTERS, "Landlock": "EACCES"},
        worked="exit",
    ),
    Attack(
        "signal a process of the host's",
        "kill",
        "os.kill(VICTIM, 10)",
        {**OTHERS, "Landlock": "EPERM", "user namespace": "EPERM"},
    ),
    Attack(
        "signal a thread of the host's",
        "tgkill, whose first argument the filter compares",
        "call(234, VICTIM, VICTIM, 10)",
        {**OTHERS, "Landlock": "EPERM", "user namespace": "EPERM"},
    ),
    Attack(
        "signal by thread alone",
        "tkill",
        "call(200, VICTIM, 10)",
        {**OTHERS, "Landlock": "EPERM", "user namespace": "EPERM"},
    ),
    Attack(
        "signal with a value",
        "rt_sigqueueinfo: a forged sender",
        "call(129, VICTIM, 10, struct.pack('iii4xiiQ', 10, 0, -1, os.getpid(), 0, 7) + bytes(96))",
        {**OTHERS, "Landlock": "EPERM", "user namespace": "EPERM"},
    ),
    Attack(
        "signal everybody",
        "kill(-1), asked with signal 0",
        "os.kill(-1, 0)",
        {**FILTERS, "pid namespace": "ESRCH"},
        together=frozenset({"Landlock"}),
    ),
    Attack(
        "hold a process of the host's",
        "pidfd_open",
        "os.pidfd_open(VICTIM)",
        OTHERS,
    ),
    Attack(
        "signal through a descriptor",
        "pidfd_send_signal, here to itself",
        "import signal; signal.pidfd_send_signal(os.pidfd_open(os.getpid()), 0)",
        FILTERS,
    ),
    Attack(
        "have SIGIO sent to another",
        "F_SETOWN: the kernel signals in our name",
        """
        import fcntl
        r, w = os.pipe()
        fcntl.fcntl(r, 8, VICTIM)
        fcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC)
        os.write(w, b'x')
        """,
        OTHERS,
    ),
    Attack(
        "leave the group",
        "setpgid: kills of the group miss it",
        "in_child(lambda: os.setpgid(0, 0))",
        FILTERS,
    ),
    Attack(
        "leave the session",
        "setsid in a child: a daemon",
        "in_child(os.setsid)",
        FILTERS,
    ),
    Attack(
        "outlive its maker",
        "PR_SET_PDEATHSIG switched off",
        "checked(libc.prctl(1, 0, 0, 0, 0))",
        {"inner filter": "EPERM"},
    ),
    Attack(
        "adopt orphans",
        "PR_SET_CHILD_SUBREAPER",
        "checked(libc.prctl(36, 1, 0, 0, 0))",
        {"inner filter": "EPERM"},
    ),
    Attack(
        "change another's limits",
        "prlimit: no more files for the sibling",
        "import resource; resource.prlimit(VICTIM, resource.RLIMIT_NOFILE, (9, 9))",
        {**OTHERS, "user namespace": "EPERM"},
    ),
    Attack(
        "slow another down",
        "setpriority",
        "os.setpriority(os.PRIO_PROCESS, VICTIM, 19)",
        RULING,
    ),
    Attack(
        "pin another to one core",
        "sched_setaffinity",
        "os.sched_setaffinity(VICTIM, [0])",
        RULING,
    ),
    Attack(
        "put another behind everybody",
        "sched_setscheduler: SCHED_IDLE",
        "os.sched_setscheduler(VICTIM, os.SCHED_IDLE, os.sched_param(0))",
        RULING,
    ),
    Attack(
        "starve another's disk",
        "ioprio_set",
        "call(251, 1, VICTIM, 3 << 13)",
        RULING,
    ),
    Attack(
        "push out another's memory",
        "process_madvise",
        "call(440, call(434, VICTIM, 0), struct.pack('QQ', ADDRESS & ~4095, 4096), 1, 20, 0)",
        {**OTHERS, "user namespace": "EACCES", "capabilities": "EACCES"},
        root_only=True,
    ),
    Attack(
        "move another's memory",
        "migrate_pages",
        "call(256, VICTIM, 8, struct.pack('Q', 1), struct.pack('Q', 1))",
        RULING,
        together=frozenset({"Landlock"}),
    ),
    Attack(
        "type into the terminal",
        "TIOCSTI on the terminal of whoever started us",
        """
        import fcntl
        def type_in():
            os.setsid()
            terminal = os.open(TERMINAL, os.O_RDWR)
            fcntl.ioctl(terminal, 0x540E, 0)
            fcntl.ioctl(terminal, 0x5412, b'x')
        open(TERMINAL).close()
        in_child(type_in)
        """,
        {"mounts": "ENOENT", "Landlock": "EACCES", **FILTERS},
        together=ALL,
    ),
)
