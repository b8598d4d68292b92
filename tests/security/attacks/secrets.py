"""Learning what is nobody's business: keys, other processes, the machine."""

from collections.abc import Mapping

from tests.security.attack import FILTERS, Attack
from tests.security.layers import Layer

TRACING: Mapping[Layer, str] = {
    **FILTERS,
    "pid namespace": "ESRCH",
    "user namespace": "EPERM",
    "capabilities": "EPERM",
    "Landlock": "EPERM",
}

SECRETS = (
    Attack(
        "read the environment",
        "os.environ",
        "if os.environ.get(SECRET_NAME) != SECRET: raise Nothing",
        {"--clearenv": "Nothing", "scrubbed environment": "Nothing"},
    ),
    Attack(
        "read the environment left in memory",
        "the strings above the stack, where the kernel put them",
        """
        libc.getauxval.restype = ctypes.c_ulong
        top = libc.getauxval(31)
        below = 2048
        if SECRET.encode() not in ctypes.string_at(top - below, below): raise Nothing
        """,
        {"--clearenv": "Nothing", "scrubbed environment": "Nothing"},
    ),
    Attack(
        "read another process's environment",
        "/proc/PID/environ of a process beside the jail",
        "assert SECRET.encode() in open(f'/proc/{VICTIM}/environ', 'rb').read()",
        {
            "no /proc": "ENOENT",
            "pid namespace": "ENOENT",
            "user namespace": "EACCES",
            "capabilities": "EACCES",
        },
    ),
    Attack(
        "list the machine's processes",
        "/proc, where the command lines are",
        """
        os.stat('/proc/self')
        if str(VICTIM) not in os.listdir('/proc'): raise Nothing
        assert SECRET.encode() in open(f'/proc/{VICTIM}/cmdline', 'rb').read()
        """,
        {"no /proc": "ENOENT", "pid namespace": "Nothing"},
    ),
    Attack(
        "read the list of mounts",
        "/proc/self/mountinfo: where on the host the jail's files lie",
        "assert open('/proc/self/mountinfo').read()",
        {"no /proc": "ENOENT"},
    ),
    Attack(
        "list the mounts without /proc",
        "listmount, a call newer than the filters",
        """
        request = struct.pack('IIQQQ', 32, 0, 0xFFFFFFFFFFFFFFFF, 0, 0)
        assert call(458, request, ctypes.create_string_buffer(800), 100, 0) > 0
        """,
        {"inner filter": "ENOSYS", "outer filter": "ENOSYS"},
    ),
    Attack(
        "read an inherited descriptor",
        "a secret that the starter left open",
        "assert os.pread(21, 99, 0).decode() == SECRET",
        {"closed descriptors": "EBADF"},
    ),
    Attack(
        "learn the machine's name",
        "uname",
        "if os.uname().nodename != HOSTNAME: raise Nothing",
        {"uts namespace": "Nothing"},
    ),
    Attack(
        "learn who made the socket",
        "SO_PEERCRED of the one socket: the launcher's pid and uid",
        "import socket; socket.socket(fileno=os.dup(SOCKET_FD)).getsockopt(1, 17, 12)",
        FILTERS,
    ),
    Attack(
        "read another process's memory",
        "process_vm_readv at the secret's address",
        """
        buffer = ctypes.create_string_buffer(32)
        local = struct.pack('QQ', ctypes.addressof(buffer), 32)
        remote = struct.pack('QQ', ADDRESS, 32)
        call(310, VICTIM, local, 1, remote, 1, 0)
        assert buffer.raw.decode() == SECRET
        """,
        TRACING,
    ),
    Attack(
        "trace another process",
        "ptrace: attach, look, change",
        """
        checked(libc.ptrace(16, VICTIM, None, None))
        os.waitpid(VICTIM, 0)
        checked(libc.ptrace(17, VICTIM, None, None))
        """,
        TRACING,
    ),
    Attack(
        "steal a descriptor",
        "pidfd_getfd from another process",
        "call(438, call(434, VICTIM, 0), 0, 0)",
        TRACING,
    ),
    Attack(
        "compare kernel objects",
        "kcmp: which files two processes share",
        "call(312, os.getpid(), VICTIM, 0, 0, 0)",
        TRACING,
    ),
    Attack(
        "leave a key in the keyring",
        "add_key: the kernel keeps it, on nobody's account",
        "call(248, b'user', b'distill', b'x', 1, -3)",
        FILTERS,
    ),
    Attack(
        "ask for the session's keyring",
        "keyctl: keys of whoever started us",
        "call(250, 0, -3, 1)",
        FILTERS,
    ),
    Attack(
        "have the kernel fetch a key",
        "request_key: a helper of the kernel's runs as root",
        "reached(errno.ENOKEY, lambda: call(249, b'user', b'distill-none', None, -3))",
        FILTERS,
    ),
    Attack(
        "read the kernel's messages",
        "syslog(2)",
        "call(103, 3, ctypes.create_string_buffer(4096), 4096)",
        {**FILTERS, "user namespace": "EPERM", "capabilities": "EPERM"},
        root_only=True,
    ),
    Attack(
        "read the kernel's messages as a file",
        "/dev/kmsg",
        "os.open('/dev/kmsg', os.O_RDONLY | os.O_NONBLOCK)",
        {"mounts": "ENOENT", "user namespace": "EPERM", "capabilities": "EPERM"},
        root_only=True,
    ),
    Attack(
        "read the hardware's serial numbers",
        "/sys",
        "assert os.listdir('/sys/devices')",
        {"mounts": "ENOENT"},
    ),
    Attack(
        "make itself readable by others",
        "PR_SET_DUMPABLE, and a core file where the system wants it",
        "checked(libc.prctl(4, 1, 0, 0, 0))",
        {"inner filter": "EPERM"},
    ),
    Attack(
        "allow core files",
        "setrlimit: a dump of the text and of all answers",
        "import resource; resource.setrlimit(resource.RLIMIT_CORE, (1 << 30, 1 << 30))",
        {"RLIMIT_CORE": "ValueError"},
        keeps=frozenset({"user namespace"}),
    ),
)
