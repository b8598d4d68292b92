"""The cell that a jail is tried with: what must work in it, and what each layer must deny."""

CODES = (*b"A context: ", 0xE9, 0x2603, 0xFFFF, 0x1F600)
"""The characters of the context that it is sent; of all widths."""
_HEAD = """
import errno, os, socket, threading
def denied(attack, *expected):
    try:
        attack()
    except OSError as error:
        return error.errno in expected
    return False
def thread():
    found = []
    one = threading.Thread(target=found.append, args=(1,)); one.start(); one.join()
    return found == [1]
def context_is_sent():
    import json, pickle, re
    plain = "".join(chr(code) for code in CODES)
    words = re.findall(r"\\w+|.", context, re.DOTALL)
    copies = [json.loads(json.dumps(context)), pickle.loads(pickle.dumps(context)), "".join(words)]
    parts = [(text + "x", text[1:], hash(text), {text: 1}) for text in (context, plain)]
    return all(copy == plain == context for copy in copies) and parts[0] == parts[1]
E = errno
checks = {
    "a thread starts": thread(),
    "the context is the text that was sent": context_is_sent(),
    "/dev/null is written": open("/dev/null", "w").write("x") == 1,
    "no internet socket": denied(lambda: socket.socket(socket.AF_INET), E.EPERM),
    "no unix socket": denied(lambda: socket.socket(socket.AF_UNIX), E.EPERM),
    "no program is executed": denied(lambda: os.execv("/no/such/program", ["x"]), E.EPERM),
    "no process is made": denied(os.fork, E.EPERM),
    "no memory file": denied(lambda: os.memfd_create("x"), E.EPERM),
    "no signal to another": denied(lambda: os.kill(os.getppid(), 0), E.EPERM),
    "not root": os.getuid() != 0,
}
""".replace("CODES", repr(CODES))
_OF_TIER = {
    "namespaces": """
def scratch():
    with open("/tmp/probe", "w") as file:
        file.write("x")
    os.unlink("/tmp/probe")
    return True
checks |= {
    "the scratch folder is writable": scratch(),
    "no /etc": denied(lambda: os.listdir("/etc"), E.ENOENT),
    "no /proc": denied(lambda: os.listdir("/proc"), E.ENOENT),
    "the root is read-only": denied(lambda: open("/x", "w"), E.EROFS, E.EACCES),
    "/dev is read-only": denied(lambda: open("/dev/x", "w"), E.EROFS, E.EACCES),
    "pid 1": os.getpid() == 1,
}
""",
    # A file that does not exist tells the filter (EPERM) from the owner's rights.
    "landlock": """
checks |= {
    "no file outside is read": denied(lambda: open("/etc/passwd"), E.EACCES),
    "no folder outside is listed": denied(lambda: os.listdir("/"), E.EACCES),
    "no process is looked into": denied(lambda: open("/proc/self/status"), E.EACCES),
    "no file is made": denied(lambda: open("/tmp/distill-probe", "w"), E.EACCES),
    "no truncation with reading": denied(lambda: os.open("/x", os.O_TRUNC), E.EPERM),
    "no opening for ioctl only": denied(lambda: os.open("/x", 3), E.EPERM),
    "no change of modes": denied(lambda: os.chmod("/x", 0), E.EPERM),
    "no change of times": denied(lambda: os.utime("/x"), E.EPERM),
    "no removal": denied(lambda: os.unlink("/x"), E.EPERM),
}
""",
}
_TAIL = 'print(*(name for name, good in checks.items() if not good), sep=", ")\n'


def code(tier: str) -> str:
    """For a jail of this tier; it prints what is not as it must be."""
    return _HEAD + _OF_TIER[tier] + _TAIL
