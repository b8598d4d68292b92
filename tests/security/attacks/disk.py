"""Disk: bytes, names, and files that are larger than they are."""

from tests.security.attack import Attack

DISK = (
    Attack(
        "fill the disk",
        "many files of some size",
        """
        for number in range(40):
            with open(f'f{number}', 'wb') as file: file.write(bytes(1 << 20))
        """,
        {"scratch bytes": "ENOSPC"},
    ),
    Attack(
        "one large file",
        "write past the size that a file may have",
        """
        with open('f', 'wb') as file:
            for _ in range(20): file.write(bytes(1 << 20))
        """,
        {"RLIMIT_FSIZE": "EFBIG", "scratch bytes": "ENOSPC"},
    ),
    Attack(
        "a file of a terabyte",
        "a hole: nothing is stored, all tools see the size",
        "os.truncate(os.open('f', os.O_RDWR | os.O_CREAT), 1 << 40)",
        {"RLIMIT_FSIZE": "EFBIG"},
    ),
    Attack(
        "room kept without writing",
        "fallocate",
        "os.posix_fallocate(os.open('f', os.O_RDWR | os.O_CREAT), 0, 40 << 20)",
        {"RLIMIT_FSIZE": "EFBIG", "scratch bytes": "ENOSPC"},
    ),
    Attack(
        "a byte far out",
        "pwrite at an offset of half a terabyte",
        "os.pwrite(os.open('f', os.O_RDWR | os.O_CREAT), b'x', 1 << 39)",
        {"RLIMIT_FSIZE": "EFBIG"},
    ),
    Attack(
        "empty files without end",
        "names and inodes, not bytes",
        "for number in range(300): open(f'f{number}', 'w').close()",
        {"scratch inodes": "ENOSPC"},
    ),
    Attack(
        "hard links without end",
        "names without inodes",
        """
        open('f', 'w').close()
        for number in range(300): os.link('f', f'f{number}')
        """,
        {"scratch inodes": "ENOSPC"},
    ),
    Attack(
        "symbolic links without end",
        "4 KiB of kernel memory in each target",
        "for number in range(300): os.symlink('x' * 4000, f'l{number}')",
        {"scratch inodes": "ENOSPC"},
    ),
    Attack(
        "a tree without a bottom",
        "folders in folders, deeper than any path is long",
        """
        for number in range(300):
            os.mkdir('d')
            os.chdir('d')
        os.chdir('/')
        """,
        {"scratch inodes": "ENOSPC"},
    ),
    Attack(
        "files without a name",
        "written, unlinked, held open: no folder shows them",
        """
        kept = []
        for _ in range(40):
            fd = os.open('.', os.O_TMPFILE | os.O_RDWR)
            kept.append(fd)
            os.write(fd, bytes(1 << 20))
        """,
        {"scratch bytes": "ENOSPC"},
    ),
    Attack(
        "a flood past the printed streams",
        "write to descriptor 1, which is a file of ours",
        "for _ in range(40): os.write(2, bytes(1 << 20))",
        {"RLIMIT_FSIZE": "EFBIG", "scratch bytes": "ENOSPC"},
    ),
)
