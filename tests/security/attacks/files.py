"""Reading and writing what is not the jail's: by name, by descriptor, by mounting."""

from tests.security.attack import FILTERS, Attack

FILES = (
    Attack(
        "read a file of the host's",
        "open by absolute path",
        "assert open(FILE).read() == SECRET",
        {"mounts": "ENOENT"},
    ),
    Attack(
        "climb out by ..",
        "a path that leaves the working folder upwards",
        "assert open('../' * 40 + FILE).read() == SECRET",
        {"mounts": "ENOENT"},
    ),
    Attack(
        "read through a symbolic link",
        "a link in the scratch folder, followed by the kernel",
        """
        os.symlink(FILE, 'link')
        assert open('link').read() == SECRET
        """,
        {"mounts": "ENOENT"},
    ),
    Attack(
        "hard link to a file of the host's",
        "a second name for a file, made where one may write",
        """
        os.link(FILE, FOLDER + '/inner/second')
        assert open(FOLDER + '/inner/second').read() == SECRET
        """,
        {"mounts": "ENOENT", "Landlock": "EACCES"},
    ),
    Attack(
        "read through /proc/self/root",
        "a magic link of /proc",
        "assert open('/proc/self/root' + FILE).read() == SECRET",
        {"mounts": "ENOENT", "no /proc": "ENOENT"},
    ),
    Attack(
        "read through another process's root",
        "/proc/PID/root: the other's mounts",
        "assert open(f'/proc/{VICTIM}/root' + FILE).read() == SECRET",
        {
            "no /proc": "ENOENT",
            "pid namespace": "ENOENT",
            "user namespace": "EACCES",
            "capabilities": "EACCES",
        },
        together=frozenset({"Landlock"}),
    ),
    Attack(
        "openat on an inherited folder",
        "a descriptor of a folder, left open by the starter",
        "assert os.read(os.open('secret', os.O_RDONLY, dir_fd=20), 99).decode() == SECRET",
        {"closed descriptors": "EBADF"},
        together=frozenset({"mounts", "Landlock"}),
    ),
    Attack(
        "enter an inherited folder",
        "fchdir to a folder outside, then relative paths",
        """
        os.fchdir(20)
        assert open('inner/../secret').read() == SECRET
        """,
        {"closed descriptors": "EBADF"},
        together=frozenset({"mounts", "Landlock"}),
    ),
    Attack(
        "reopen an O_PATH descriptor",
        "a descriptor without rights gets them through /proc/self/fd",
        "assert os.read(os.open('/proc/self/fd/22', os.O_RDONLY), 99).decode() == SECRET",
        {"no /proc": "ENOENT", "closed descriptors": "ENOENT"},
        together=frozenset({"mounts", "Landlock"}),
    ),
    Attack(
        "write to a file of the host's",
        "open for writing by absolute path",
        "open(FILE, 'w').write('spoiled')",
        {"mounts": "ENOENT", "Landlock": "EACCES"},
    ),
    Attack(
        "truncate a file of the host's",
        "truncate by path, no descriptor at all",
        "os.truncate(FILE, 0)",
        {"mounts": "ENOENT", "Landlock": "EACCES"},
    ),
    Attack(
        "remove a file of the host's",
        "unlink by path",
        "os.unlink(FILE)",
        {"mounts": "ENOENT", "Landlock": "EACCES"},
    ),
    Attack(
        "make a host file everybody's",
        "chmod by path, which Landlock does not know",
        "os.chmod(PRIVATE, 0o666)",
        {"mounts": "ENOENT", "user namespace": "EPERM"},
    ),
    Attack(
        "read another user's file",
        "root's own files, where the tree is open",
        "assert open(PRIVATE).read() == SECRET",
        {"mounts": "ENOENT", "user namespace": "EACCES"},
    ),
    Attack(
        "spoil the next jail's modules",
        "write into the staged files that every jail runs",
        """
        module = MODULES + '/distill/sandbox/jail/wire.py'
        os.chmod(module, 0o644)
        open(module, 'w').write('spoiled')
        """,
        {"read-only tree": "EROFS", "Landlock": "EACCES", "user namespace": "EPERM"},
        owner_writes=True,
    ),
    Attack(
        "replace the next jail's filter",
        "rename a file of its own over the staged one",
        """
        filter = MODULES + '/filter.bpf'
        open(filter + '.new', 'w').close()
        os.rename(filter + '.new', filter)
        """,
        {"read-only tree": "EROFS", "Landlock": "EACCES", "user namespace": "EACCES"},
        owner_writes=True,
    ),
    Attack(
        "plant a module in the library",
        "a new file on the next interpreter's path",
        """
        open(PYTHON + '/lib/sitecustomize.py', 'x').close()
        os.unlink(PYTHON + '/lib/sitecustomize.py')
        """,
        {"read-only tree": "EROFS", "Landlock": "EACCES", "user namespace": "EACCES"},
        owner_writes=True,
    ),
    Attack(
        "make the staged interpreter writable",
        "chmod of the program that every jail starts",
        "os.chmod(PYTHON + '/bin/python3', 0o777)",
        {"read-only tree": "EROFS", "user namespace": "EPERM"},
        owner_writes=True,
    ),
    Attack(
        "change the text of the run",
        "make the mapped text writable where it lies",
        """
        page = id(context) + 4095 & ~4095
        checked(libc.mprotect(ctypes.c_void_p(page), 4096, 3))
        ctypes.memset(page, 0x58, 1)
        assert context[0] == 'X'
        """,
        {"sealed context": "EACCES"},
    ),
    Attack(
        "change the text through its descriptor",
        "pwrite to the memory file",
        "assert os.pwrite(25, b'X', 0) == 1",
        {"closed descriptors": "EBADF", "sealed context": "EBADF"},
    ),
    Attack(
        "cut the text of the run",
        "ftruncate of the memory file: whoever reads it next dies of SIGBUS",
        "os.ftruncate(25, 0); context[0]",
        {"closed descriptors": "EBADF", "sealed context": "EINVAL"},
        worked="SIGBUS",
    ),
    Attack(
        "map the text of the run for writing",
        "a shared writable mapping of the memory file",
        """
        import mmap
        mmap.mmap(25, 0)[0:1] = b'X'
        """,
        {"closed descriptors": "EBADF", "sealed context": "EACCES", **FILTERS},
    ),
    Attack(
        "reopen the text for writing",
        "a fresh descriptor of the same memory file, through /proc",
        "os.write(os.open('/proc/self/fd/25', os.O_RDWR), b'X')",
        {"no /proc": "ENOENT", "closed descriptors": "ENOENT", "sealed context": "EPERM"},
    ),
    Attack(
        "seal the text of the run",
        "F_ADD_SEALS: a seal more, so that the next one to use it fails",
        "import fcntl; fcntl.fcntl(25, 1033, 1)",
        {**FILTERS, "closed descriptors": "EBADF", "sealed context": "EPERM"},
    ),
    Attack(
        "write to read-only memory",
        "/proc/self/mem does not ask for the mapping's rights",
        """
        import mmap
        page = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        checked(libc.mprotect(ctypes.c_void_p(address), 4096, mmap.PROT_READ))
        with open('/proc/self/mem', 'r+b', buffering=0) as memory:
            memory.seek(address)
            memory.write(b'X')
        assert page[:1] == b'X'
        """,
        {"no /proc": "ENOENT", "Landlock": "EACCES"},
    ),
    Attack(
        "change the kernel's core pattern",
        "a system-wide setting in /proc/sys",
        """
        path = '/proc/sys/kernel/core_pattern'
        value = open(path).read()
        open(path, 'w').write(value)
        """,
        {
            "no /proc": "ENOENT",
            "Landlock": "EACCES",
            "user namespace": "EACCES",
        },
        root_only=True,
    ),
    Attack(
        "open a disk",
        "a block device, below the file system",
        """
        disks = ['/dev/' + name for name in os.listdir('/dev')
                 if os.path.exists('/sys/class/block/' + name)]
        if not disks: raise Nothing
        os.open(disks[0], os.O_RDONLY)
        """,
        {"mounts": "Nothing", "user namespace": "EACCES"},
        root_only=True,
    ),
    Attack(
        "make a device node",
        "mknod of the first disk, in the scratch folder",
        "os.mknod('sda', 0o60644, os.makedev(8, 0))",
        {**FILTERS, "user namespace": "EPERM", "capabilities": "EPERM"},
        root_only=True,
    ),
    Attack(
        "open a file by its handle",
        "open_by_handle_at: no path, no mount in between",
        """
        handle = ctypes.create_string_buffer(struct.pack('Ii', 128, 0) + bytes(128))
        mount = ctypes.c_int()
        call(303, -100, FILE.encode(), handle, ctypes.byref(mount), 0)
        fd = call(304, os.open(FOLDER, os.O_RDONLY), handle, os.O_RDONLY)
        assert os.read(fd, 99).decode() == SECRET
        """,
        {**FILTERS, "mounts": "ENOENT", "user namespace": "EPERM", "capabilities": "EPERM"},
        root_only=True,
    ),
    Attack(
        "mount a file system",
        "a tmpfs over what is there",
        "checked(libc.mount(b'x', b'/var', b'tmpfs', 0, 0))",
        {"inner filter": "EPERM", "mounts": "ENOENT", "Landlock": "EPERM", "capabilities": "EPERM"},
        keeps=frozenset({"user namespace"}),
    ),
    Attack(
        "remount the root for writing",
        "mount flags changed in place",
        "checked(libc.mount(None, b'/', None, 0x1000 | 0x20, None))",
        {"inner filter": "EPERM", "Landlock": "EPERM", "capabilities": "EPERM"},
        keeps=frozenset({"user namespace"}),
    ),
    Attack(
        "unmount the scratch folder",
        "umount2, to see what lies below",
        "checked(libc.umount2(b'/tmp', 2))",
        {**FILTERS, "Landlock": "EPERM", "capabilities": "EPERM"},
        keeps=frozenset({"user namespace"}),
    ),
    Attack(
        "swap the root",
        "pivot_root into the scratch folder",
        "os.mkdir('old'); call(155, b'.', b'old')",
        {**FILTERS, "Landlock": "EPERM", "capabilities": "EPERM"},
        keeps=frozenset({"user namespace"}),
    ),
    Attack(
        "chroot and walk out",
        "a root below the working folder holds nobody",
        """
        os.mkdir('cell')
        outside = os.open('/', os.O_RDONLY)
        os.chroot('cell')
        os.fchdir(outside)
        os.chroot('.')
        """,
        {**FILTERS, "capabilities": "EPERM"},
        keeps=frozenset({"user namespace"}),
    ),
    Attack(
        "the newer way to mount",
        "fsopen: a file system without a mount call",
        "call(430, b'tmpfs', 0)",
        {**FILTERS, "capabilities": "EPERM"},
        keeps=frozenset({"user namespace"}),
    ),
    Attack(
        "clone a part of the tree",
        "open_tree with OPEN_TREE_CLONE: a private copy of the mounts",
        "call(428, -100, b'/', 0x8001)",
        {**FILTERS, "capabilities": "EPERM"},
        keeps=frozenset({"user namespace"}),
    ),
    Attack(
        "change a mount's attributes",
        "mount_setattr: remounting by another call",
        "call(442, -100, b'/', 0, struct.pack('QQQQ', 0x200000, 0, 0, 0), 32)",
        {**FILTERS, "capabilities": "EPERM"},
        keeps=frozenset({"user namespace"}),
    ),
    Attack(
        "hide data in attributes",
        "setxattr: storage that no limit of ours counts",
        "open('f', 'w').close(); os.setxattr('f', 'user.x', bytes(1000))",
        FILTERS,
    ),
    Attack(
        "give a file away",
        "chown",
        "open('f', 'w').close(); os.chown('f', os.getuid(), os.getgid())",
        FILTERS,
    ),
    Attack(
        "watch the host's files",
        "inotify: who opens what, when",
        "fd = call(294, 0); checked(libc.inotify_add_watch(fd, FOLDER.encode(), 0xFFF))",
        {**FILTERS, "mounts": "ENOENT"},
    ),
    Attack(
        "listen to all file access",
        "fanotify",
        "call(300, 0x200, 0)",
        FILTERS,
    ),
    Attack(
        "hold others up by a lease",
        "F_SETLEASE: whoever opens the file waits for us",
        "import fcntl; fcntl.fcntl(open('f', 'w'), 1024, 1)",
        FILTERS,
    ),
    Attack(
        "be told of a folder's changes",
        "F_NOTIFY: signals by file events",
        "import fcntl; fcntl.fcntl(os.open('.', os.O_RDONLY), 1026, 4)",
        FILTERS,
    ),
    Attack(
        "mark a file undumpable",
        "an ioctl of the file system's own",
        """
        import fcntl
        open(FOLDER + '/inner/f', 'w').close()
        fcntl.ioctl(os.open(FOLDER + '/inner/f', 0), 0x40086602, struct.pack('l', 0x40))
        """,
        {
            "mounts": "ENOENT",
            "inner filter": "EPERM",
            "outer filter": "EPERM",
            "Landlock": "EACCES",
        },
    ),
    Attack(
        "run code from the scratch folder",
        "a library of its own, mapped for execution",
        """
        import _ctypes, mmap, shutil
        shutil.copyfile(_ctypes.__file__, 'own.so')
        with open('own.so', 'rb') as file:
            mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)
        """,
        {"scratch noexec": "EPERM"},
    ),
    Attack(
        "share memory by name",
        "/dev/shm, where all processes meet",
        "open('/dev/shm/distill-canary', 'w').close(); os.unlink('/dev/shm/distill-canary')",
        {"mounts": "ENOENT", "Landlock": "EACCES"},
    ),
    Attack(
        "move page cache without a copy",
        "splice a read-only file into a pipe (the way of Dirty Pipe)",
        """
        r, w = os.pipe()
        call(275, os.open(MODULES + '/filter.bpf', 0), None, w, None, 8, 0)
        """,
        FILTERS,
    ),
)
