"""Reaching anything: every family of sockets, inherited ones, and what goes without a socket."""

from tests.security.attack import FILTERS, Attack

NETWORK = (
    Attack(
        "connect by TCP",
        "AF_INET stream to a listener of the host's",
        "import socket; socket.create_connection(('127.0.0.1', TCP), 2)",
        {**FILTERS, "net namespace": "ECONNREFUSED", "Landlock": "EACCES"},
    ),
    Attack(
        "connect by TCP over IPv6",
        "AF_INET6",
        """
        import socket
        one = socket.socket(socket.AF_INET6)
        one.connect(('::1', TCP6))
        """,
        {**FILTERS, "net namespace": "ECONNREFUSED", "Landlock": "EACCES"},
    ),
    Attack(
        "send a datagram",
        "UDP, as a DNS question would leave",
        """
        import socket
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        one.connect(('127.0.0.1', UDP))
        one.send(b'secret')
        one.send(b'secret')
        """,
        {**FILTERS, "net namespace": "ECONNREFUSED"},
    ),
    Attack(
        "listen for a caller",
        "bind and listen: the way in, not out",
        "import socket; socket.create_server(('127.0.0.1', 0))",
        {**FILTERS, "Landlock": "EACCES"},
    ),
    Attack(
        "connect to a path",
        "AF_UNIX by a name in the file system (docker.sock is one)",
        "import socket; socket.socket(socket.AF_UNIX).connect(FOLDER + '/socket')",
        {**FILTERS, "mounts": "ENOENT"},
    ),
    Attack(
        "connect to an abstract name",
        "AF_UNIX without a file (the session bus is one)",
        "import socket; socket.socket(socket.AF_UNIX).connect('\\0' + FOLDER)",
        {**FILTERS, "net namespace": "ECONNREFUSED", "Landlock": "EPERM"},
    ),
    Attack(
        "ask the kernel for its interfaces",
        "AF_NETLINK, routing",
        """
        import socket
        one = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        one.bind((0, 0))
        one.send(struct.pack('IHHIIB3x', 20, 18, 0x301, 1, 0, 0))
        assert one.recv(100)
        """,
        FILTERS,
    ),
    Attack(
        "listen to the wire",
        "AF_PACKET",
        "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
        {**FILTERS, "capabilities": "EPERM"},
        keeps=frozenset({"user namespace", "net namespace"}),
    ),
    Attack(
        "make packets by hand",
        "a raw IP socket",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)",
        {**FILTERS, "capabilities": "EPERM"},
        keeps=frozenset({"user namespace", "net namespace"}),
    ),
    Attack(
        "packets by shared memory",
        "AF_XDP",
        "import socket; socket.socket(44, socket.SOCK_RAW)",
        {**FILTERS, "capabilities": "EPERM"},
        keeps=frozenset({"user namespace", "net namespace"}),
    ),
    Attack(
        "call the hypervisor",
        "AF_VSOCK, which no net namespace holds",
        "import socket; socket.socket(socket.AF_VSOCK).bind((socket.VMADDR_CID_ANY, 0xFFFFFFFF))",
        FILTERS,
    ),
    Attack(
        "open a ring",
        "io_uring: sockets and files past the filter",
        "call(425, 8, ctypes.create_string_buffer(120))",
        FILTERS,
        together=frozenset({"RLIMIT_MEMLOCK"}),
    ),
    Attack(
        "pass a descriptor to the keeper",
        "SCM_RIGHTS over the jail's own socket",
        """
        import socket
        pair = socket.socketpair()
        socket.send_fds(pair[0], [b'x'], [0])
        assert socket.recv_fds(pair[1], 1, 1)[1]
        """,
        FILTERS,
    ),
    Attack(
        "accept on an inherited listener",
        "a listening socket that the starter left open",
        """
        import socket
        one = socket.socket(fileno=23)
        one.setblocking(False)
        reached(errno.EAGAIN, one.accept)
        """,
        {**FILTERS, "closed descriptors": "EBADF"},
    ),
    Attack(
        "send through an inherited socket",
        "sendto with an address: no socket() and no connect()",
        """
        address = struct.pack('!HH4s8x', 0x0200, UDP, bytes([127, 0, 0, 1]))
        call(44, 24, b'secret', 6, 0, address, 16)
        """,
        {**FILTERS, "closed descriptors": "EBADF"},
    ),
    Attack(
        "a pair of another family",
        "socketpair of AF_TIPC and its like loads kernel modules",
        """
        pair = (ctypes.c_int * 2)()
        reached(errno.EOPNOTSUPP, lambda: checked(libc.socketpair(2, 1, 0, pair)))
        """,
        FILTERS,
    ),
)
