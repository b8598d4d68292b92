"""Memory: more than is given, and the kinds that the limit does not count."""

from collections.abc import Mapping

from tests.security.attack import FILTERS, Attack
from tests.security.layers import Layer

TOO_MUCH = "1536 << 20"
"""Over RLIMIT_DATA and over RLIMIT_AS; never touched, so that no machine runs out."""
HEAP: Mapping[Layer, str] = {"RLIMIT_DATA": "MemoryError", "RLIMIT_AS": "MemoryError"}
MAPPED: Mapping[Layer, str] = {"RLIMIT_DATA": "ENOMEM", "RLIMIT_AS": "ENOMEM"}

MEMORY = (
    Attack("a heap bomb", "one object from malloc", f"bytearray({TOO_MUCH})", HEAP),
    Attack(
        "a heap bomb in small steps",
        "brk, a little at a time",
        """
        kept = []
        try:
            for _ in range(600): kept.append(bytes(1 << 20))
        finally:
            kept.clear()
        """,
        {"RLIMIT_DATA": "MemoryError"},
    ),
    Attack(
        "private memory",
        "an anonymous private mapping",
        f"import mmap; mmap.mmap(-1, {TOO_MUCH}, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)",
        MAPPED,
    ),
    Attack(
        "memory made writable later",
        "a mapping without rights, which RLIMIT_DATA does not count, then mprotect",
        """
        import mmap
        libc.mmap.restype = ctypes.c_void_p
        address = libc.mmap(None, ctypes.c_size_t(600 << 20), 0, 0x22, -1, 0)
        assert address != 2 ** 64 - 1
        checked(libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(600 << 20), 3))
        """,
        {"RLIMIT_DATA": "ENOMEM"},
    ),
    Attack(
        "memory that is stretched",
        "mremap of a small mapping",
        """
        libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
        address = libc.mmap(None, ctypes.c_size_t(4096), 3, 0x22, -1, 0)
        size = ctypes.c_size_t(1536 << 20)
        if libc.mremap(ctypes.c_void_p(address), ctypes.c_size_t(4096), size, 1) == 2 ** 64 - 1:
            raise OSError(ctypes.get_errno(), 'mremap')
        """,
        MAPPED,
    ),
    Attack(
        "memory behind a file's pages",
        "a private writable mapping of a file, page after page",
        """
        fd = os.open('f', os.O_RDWR | os.O_CREAT)
        os.truncate(fd, 8 << 20)
        libc.mmap.restype = ctypes.c_void_p
        for _ in range(200):
            if libc.mmap(None, ctypes.c_size_t(8 << 20), 3, 2, fd, 0) == 2 ** 64 - 1:
                raise OSError(ctypes.get_errno(), 'mmap')
        """,
        {"RLIMIT_DATA": "ENOMEM", "RLIMIT_AS": "ENOMEM"},
    ),
    Attack(
        "shared memory",
        "an anonymous shared mapping, which RLIMIT_DATA does not count",
        "import mmap; mmap.mmap(-1, 600 << 20)",
        FILTERS,
    ),
    Attack(
        "shared memory, written later",
        "mapped read-only, made writable by mprotect",
        """
        libc.mmap.restype = ctypes.c_void_p
        address = libc.mmap(None, ctypes.c_size_t(600 << 20), 1, 0x21, -1, 0)
        if address == 2 ** 64 - 1: raise OSError(ctypes.get_errno(), 'mmap')
        checked(libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(600 << 20), 3))
        """,
        FILTERS,
    ),
    Attack(
        "a stack that grows",
        "MAP_GROWSDOWN: memory that counts as stack",
        "import mmap; mmap.mmap(-1, 1 << 20, flags=0x122)",
        FILTERS,
    ),
    Attack(
        "a memory file",
        "memfd_create: memory as a file that is in no folder",
        "os.truncate(os.memfd_create('x'), 8 << 20)",
        FILTERS,
    ),
    Attack(
        "secret memory",
        "memfd_secret: not even the kernel can page it out",
        "call(447, 0)",
        FILTERS,
    ),
    Attack(
        "System V memory",
        "shmget: stays when its maker is gone",
        "checked(libc.shmctl(checked(libc.shmget(0, 4096, 0o1600)), 0, None))",
        FILTERS,
    ),
    Attack(
        "the host's System V memory",
        "a segment of another's, by its key",
        "checked(libc.shmget(SYSV_KEY, 0, 0))",
        {**FILTERS, "ipc namespace": "ENOENT"},
    ),
    Attack(
        "System V semaphores",
        "semget: arrays in the kernel's memory",
        "checked(libc.semctl(checked(libc.semget(0, 1000, 0o1600)), 0, 0))",
        FILTERS,
    ),
    Attack(
        "System V messages",
        "msgget: queues in the kernel's memory",
        "checked(libc.msgctl(checked(libc.msgget(0, 0o1600)), 0, None))",
        FILTERS,
    ),
    Attack(
        "a POSIX message queue",
        "mq_open, counted by a limit of its own",
        "call(240, b'distill-canary', 0o102, 0o600, None); call(241, b'distill-canary')",
        {**FILTERS, "Landlock": "EACCES", "RLIMIT_MSGQUEUE": "EMFILE"},
        keeps=frozenset({"user namespace", "ipc namespace"}),
    ),
    Attack(
        "memory that is never paged out",
        "mlock",
        "checked(libc.mlock(ctypes.create_string_buffer(9000), 9000))",
        {**FILTERS, "RLIMIT_MEMLOCK": "EPERM"},
        keeps=frozenset({"user namespace"}),
    ),
    Attack(
        "memory locked as it is mapped",
        "MAP_LOCKED: mlock without the call",
        "import mmap; mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x2000)",
        {"RLIMIT_MEMLOCK": "EPERM"},
        keeps=frozenset({"user namespace"}),
    ),
    Attack(
        "page faults to itself",
        "userfaultfd: holds the kernel in the middle of a copy",
        "call(323, 1)",
        FILTERS,
    ),
    Attack(
        "scattered mappings",
        "remap_file_pages: an old call with an old record",
        "reached(errno.EINVAL, lambda: call(216, 0, 0, 0, 0, 0))",
        FILTERS,
    ),
    Attack(
        "memory protection keys",
        "pkey_alloc",
        "reached(errno.EINVAL, lambda: call(330, 0, 0))",
        FILTERS,
    ),
    Attack(
        "memory on another node",
        "set_mempolicy: whose memory is used up",
        "call(238, 0, None, 0)",
        FILTERS,
    ),
    Attack(
        "stacks of threads",
        "thread after thread",
        """
        import threading
        end = threading.Event()
        threads = [threading.Thread(target=end.wait, daemon=True) for _ in range(40)]
        try:
            for thread in threads: thread.start()
        finally:
            end.set()
        """,
        {"RLIMIT_NPROC": "RuntimeError"},
        keeps=frozenset({"user namespace"}),
    ),
)
