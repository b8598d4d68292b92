"""What a jail can say to its keeper that no interpreter of ours would, and what comes of it.

The code of each runs as a cell, after FORGE; it writes frames on the socket itself, as any cell
can. ``test_protocol_attacks.py`` runs them.
"""

from dataclasses import dataclass

from msgspec.structs import replace

from distill.protocol.jail_link import Limits
from tests.sandbox.conftest import MIB

FORGE = """
import ctypes, msgpack, os, threading, time
libc = ctypes.CDLL(None)
FD = {fd}
pack = msgpack.packb
def raw(data):
    with memoryview(data) as view:
        done = 0
        while done < len(view): done += os.write(FD, view[done:])
def frame(body): return len(body).to_bytes(4, 'big') + body
def send(message): raw(frame(pack(message)))
def called(*args, number=1, function='f', **kwargs):
    return frame(pack(
        {'type': 'Call', 'call': number, 'function': function, 'args': args, 'kwargs': kwargs}
    ))
def call(*args, **kwargs): raw(called(*args, **kwargs))
def final(value, number=1): send({'type': 'Final', 'call': number, 'value': value})
def output(text='', stream='stdout'): send({'type': 'Output', 'stream': stream, 'text': text})
def done(cell=1, **fields): send({'type': 'Done', 'cell': cell, **fields})
def spliced(old, new, value):  # a Final whose value has bytes that no packer writes
    raw(frame(pack({'type': 'Final', 'call': 1, 'value': value}).replace(old, new)))
def park():
    while True:
        try: time.sleep(60)
        except BaseException: pass
def between_cells(attack):
    def later(): time.sleep(0.3); attack()
    threading.Thread(target=later, daemon=True).start()
print('before')
"""
LIMITS = Limits(
    memory_bytes=512 * MIB,
    output_bytes=1 * MIB,
    cell_s=8.0,
    grace_s=0.3,
    calls_in_flight=8,
    calls_per_cell=50,
    call_bytes=1 * MIB,
)
ROOMY = replace(LIMITS, memory_bytes=2048 * MIB)
HURRIED = replace(LIMITS, cell_s=0.4)


@dataclass(frozen=True)
class Killed:
    """The cell ends with its jail, for this cause."""

    cause: str
    detail: str


@dataclass(frozen=True)
class KilledLater:
    """The cell ends well; what it left behind costs the jail its life."""

    cause: str
    detail: str


@dataclass(frozen=True)
class Raised:
    """The cell gets an exception; the jail lives."""

    name: str
    detail: str


@dataclass(frozen=True)
class Harmless:
    """Nothing comes of it but what is printed."""

    stdout: str = "before\n"


Outcome = Killed | KilledLater | Raised | Harmless


@dataclass(frozen=True)
class Attack:
    """``mechanism`` is what it abuses: several attacks may share one."""

    mechanism: str
    code: str
    outcome: Outcome
    limits: Limits = LIMITS


def broken(detail: str) -> Killed:
    return Killed("protocol", detail)


def broken_later(detail: str) -> KilledLater:
    return KilledLater("protocol", detail)


OVERDUE = Killed("deadline", "cell_s")

FRAMING = {
    "a length of four gigabytes": Attack(
        "oversized frame", r"raw(b'\xff\xff\xff\xff'); park()", broken("the limit is 67108864")
    ),
    "a length of one byte too many": Attack(
        "oversized frame",
        "raw((64 * 2**20 + 1).to_bytes(4, 'big')); park()",
        broken("67108865 bytes, the limit"),
    ),
    "an oversized frame that goes on and on": Attack(
        "writing on after the verdict",
        r"raw(b'\xff\xff\xff\xff')" + "\nwhile True: raw(bytes(2**20))",
        broken("the limit is 67108864"),
    ),
    "an empty frame": Attack("empty frame", "raw(bytes(4)); park()", broken("cut off")),
    "no MessagePack": Attack("malformed body", r"raw(frame(b'abc')); park()", broken("byte 1")),
    "the one byte that MessagePack does not use": Attack(
        "malformed body", r"raw(frame(b'\xc1')); park()", broken("no JSON-like value")
    ),
    "two messages in a frame": Attack(
        "hidden second message", r"raw(frame(b'\x80\x80')); park()", broken("byte 1 of 2")
    ),
    "a message that ends too early": Attack(
        "cut body", "raw(frame(pack({'type': 'Done', 'cell': 1})[:-3])); park()", broken("cut off")
    ),
    "half a frame, then silence": Attack(
        "half-sent frame", r"raw(b'\x00\x00\x10\x00half'); park()", OVERDUE, HURRIED
    ),
    "half a header, then silence": Attack(
        "half-sent header", r"raw(b'\x00\x00'); park()", OVERDUE, HURRIED
    ),
    "half a frame, then death": Attack(
        "half-sent frame", r"raw(b'\x00\x00\x10\x00half'); os._exit(7)", Killed("exit", "status 7")
    ),
    "half a frame, then a crash": Attack(
        "half-sent frame",
        r"raw(b'\x00\x00\x10\x00half'); ctypes.string_at(0)",
        Killed("signal", "SIGSEGV"),
    ),
    "half a frame, then an honest one": Attack(
        "interleaved writers", r"raw(b'\x00\x00\x00\x08half'); print('x')", broken("")
    ),
    "sixty megabytes of a frame that never ends": Attack(
        "half-sent frame",
        "raw((60 * 2**20).to_bytes(4, 'big') + bytes(59 * 2**20)); park()",
        OVERDUE,
        HURRIED,
    ),
    "a good frame, a byte at a time": Attack(
        "slow sender",
        "for byte in frame(pack({'type': 'Output', 'stream': 'stdout', 'text': 'slow'})):\n"
        "    raw(bytes([byte])); time.sleep(0.002)",
        Harmless("before\nslow"),
    ),
    "a good frame, a byte a second": Attack(
        "slow sender",
        "for byte in frame(pack({'type': 'Output', 'stream': 'stdout', 'text': 'slow'})):\n"
        "    raw(bytes([byte]))\n    try: time.sleep(1)\n    except BaseException: pass",
        OVERDUE,
        HURRIED,
    ),
    "closing the socket and living on": Attack(
        "closed socket", "os.close(FD); park()", broken("closed its socket and lived on")
    ),
    "closing half of it, in the middle of a frame": Attack(
        "closed socket",
        r"raw(b'\x00\x00\x10\x00half'); libc.shutdown(FD, 1); park()",
        broken("closed its socket and lived on"),
    ),
    "closing the half that hears, then asking": Attack(
        "replies to nobody",
        "libc.shutdown(FD, 0); call(); park()",
        OVERDUE,
        HURRIED,
    ),
    "stopping itself": Attack(
        "a process that does not run",
        "import signal; libc.syscall(234, 1, 1, signal.SIGSTOP); park()",
        OVERDUE,
        HURRIED,
    ),
}

VALUES = {
    "nested two hundred thousand deep": Attack(
        "nesting", r"raw(frame(b'\x91' * 200000 + b'\x90')); park()", broken("DEPTH_LIMIT")
    ),
    "maps in maps": Attack(
        "nesting", r"raw(frame(b'\x81\xa0' * 200000 + b'\x80')); park()", broken("DEPTH_LIMIT")
    ),
    "nested one too deep": Attack(
        "nesting", "x = []\nfor _ in range(100): x = [x]\ncall(x); park()", broken("DEPTH_LIMIT")
    ),
    "an array of four billion, in five bytes": Attack(
        "claimed length", r"raw(frame(b'\xdd\xff\xff\xff\xff')); park()", broken("ELEMENT_LIMIT")
    ),
    "a map of four billion, in five bytes": Attack(
        "claimed length", r"raw(frame(b'\xdf\xff\xff\xff\xff')); park()", broken("ELEMENT_LIMIT")
    ),
    "a text of four gigabytes, in five bytes": Attack(
        "claimed length", r"raw(frame(b'\xdb\xff\xff\xff\xff')); park()", broken("byte 4294967300")
    ),
    "sixty million empty lists": Attack(
        "objects larger than their bytes",
        r"raw(frame(b'\xdd' + (60 * 2**20).to_bytes(4, 'big') + b'\x90' * (60 * 2**20))); park()",
        broken("ELEMENT_LIMIT"),
    ),
    "a million empty dicts, all allowed": Attack(
        "objects larger than their bytes",
        "call([{}] * 999_980, function='quiet'); print(len(os.read(FD, 99)) > 0)",
        Harmless("before\nTrue\n"),
    ),
    "text of which one character makes all four bytes wide": Attack(
        "objects larger than their bytes",
        "text = 'x' * (63 * 2**20) + '😀'\n"
        "try: f(text)\nexcept LimitError as error: print('call_bytes' in str(error))",
        Harmless("before\nTrue\n"),
        ROOMY,
    ),
    "the same as the answer": Attack(
        "objects larger than their bytes",
        "text = 'x' * (63 * 2**20) + '😀'\n"
        "try: FINAL(text)\nexcept LimitError as error: print('call_bytes' in str(error))",
        Harmless("before\nTrue\n"),
        ROOMY,
    ),
    "the same, printed in one frame": Attack(
        "objects larger than their bytes",
        "output('x' * (63 * 2**20) + '😀'); park()",
        broken("no Call or Final"),
        ROOMY,
    ),
    "bytes": Attack("types beyond JSON", "call(b'x'); park()", broken("bytes")),
    "many bytes": Attack("types beyond JSON", "call([bytes(70_000)]); park()", broken("bytes")),
    "a point in time": Attack(
        "extension types", "call(msgpack.Timestamp(1, 2)); park()", broken("type 255")
    ),
    "an extension of no meaning": Attack(
        "extension types", "final(msgpack.ExtType(5, b'x')); park()", broken("type 5")
    ),
    "an integer that is none": Attack(
        "integers in disguise", "final(msgpack.ExtType(1, b'0x10')); park()", broken("64 bits")
    ),
    "an integer with spaces and signs": Attack(
        "integers in disguise", "final(msgpack.ExtType(1, b' +1_0')); park()", broken("64 bits")
    ),
    "a small integer in large clothes": Attack(
        "integers in disguise", "final(msgpack.ExtType(1, b'5')); park()", broken("64 bits")
    ),
    "an integer with zeros before it": Attack(
        "integers in disguise",
        "final(msgpack.ExtType(1, b'0' + b'9' * 30)); park()",
        broken("zeros"),
    ),
    "an integer of a million digits": Attack(
        "slow conversion", "final(msgpack.ExtType(1, b'9' * 10**6)); park()", broken("1000000 byte")
    ),
    "a large integer where a count is wanted": Attack(
        "integers in disguise", "done(msgpack.ExtType(1, b'9' * 30)); park()", broken("$.cell")
    ),
    "fourteen thousand integers of 4,300 digits": Attack(
        "slow conversion",
        "final([msgpack.ExtType(1, b'9' * 4300)] * 14_000); park()",
        OVERDUE,
        HURRIED,
    ),
    "a key that is a number": Attack(
        "keys that are no text", "call({1: 2}); park()", broken("key is no text")
    ),
    "a key that is null": Attack(
        "keys that are no text", "call(x={None: 2}); park()", broken("key is no text")
    ),
    "a key that is a list": Attack(
        "keys that can't be hashed",
        r"raw(frame(b'\x81\x90\x01')); park()",
        broken("key is no text"),
    ),
    "a key that is a large integer": Attack(
        "keys that are no text",
        "final({msgpack.ExtType(1, b'9' * 30): 2}); park()",
        broken("key is no text"),
    ),
    "an answer that is not a number": Attack(
        "floats beyond JSON", "final([float('nan')]); park()", broken("not finite")
    ),
    "an infinite answer, in four bytes": Attack(
        "floats beyond JSON",
        r"spliced(b'AAAAA', b'\xca\x7f\x80\x00\x00', 0)"
        "\nspliced(b'\\x07', b'\\xca\\xff\\x80\\x00\\x00', 7); park()",
        broken("not finite"),
    ),
    "no UTF-8": Attack(
        "invalid text", r"spliced(b'AAAA', b'\xff\xfe\xfa\xfb', 'AAAA'); park()", broken("utf-8")
    ),
    "no UTF-8 in a key": Attack(
        "invalid text",
        r"spliced(b'AAAA', b'\xff\xfe\xfa\xfb', {'AAAA': 1}); park()",
        broken("utf-8"),
    ),
    "a lone surrogate": Attack(
        "invalid text", r"spliced(b'AAA', b'\xed\xa0\x80', 'AAA'); park()", broken("utf-8")
    ),
    "zero, two bytes long": Attack(
        "invalid text", r"spliced(b'AA', b'\xc0\x80', 'AA'); park()", broken("utf-8")
    ),
    "a zero within text": Attack(
        "text that C would cut",
        r"print(f('a\0b'), f(**{'\0': 1}))",
        Harmless("before\n['a\\x00b'] [] {'\\x00': 1}\n"),
    ),
}

MESSAGES = {
    "an unknown message": Attack(
        "forged type", "send({'type': 'Shutdown'}); park()", broken("Shutdown")
    ),
    "the host's Reply": Attack(
        "forged direction", "send({'type': 'Reply', 'call': 1}); park()", broken("Reply")
    ),
    "the host's RunCell": Attack(
        "forged direction",
        "send({'type': 'RunCell', 'cell': 2, 'code': ''}); park()",
        broken("RunCell"),
    ),
    "the keeper's FinalAnswer": Attack(
        "forged direction",
        "send({'type': 'FinalAnswer', 'jail': 'jail-1', 'cell': 1, 'call': 1, 'value': 1}); park()",
        broken("FinalAnswer"),
    ),
    "no type": Attack("forged type", "send({'cell': 1}); park()", broken("type")),
    "a type that is no text": Attack(
        "forged type", "send({'type': 7, 'cell': 1}); park()", broken("$.type")
    ),
    "a list": Attack("forged type", "send(['Done', 1]); park()", broken("array")),
    "two types in one message": Attack(
        "duplicate keys",
        "raw(frame(b'\\x83' + b''.join(map(pack, ['type', 'Output', 'type', 'Final', 'call', 1]))))"
        "\npark()",
        broken("$.type"),
    ),
    "an unknown field": Attack("forged field", "done(x=1); park()", broken("unknown field `x`")),
    "a missing field": Attack(
        "forged field", "send({'type': 'Final', 'value': 1}); park()", broken("`call`")
    ),
    "a stream of another name": Attack(
        "output in the name of another", "output('x', 'log'); park()", broken("'log'")
    ),
    "a negative number": Attack("forged field", "done(open_calls=-5); park()", broken(">= 0")),
    "a truth where a number is wanted": Attack(
        "forged field", "done(True); park()", broken("got `bool`")
    ),
    "a float where a number is wanted": Attack(
        "forged field", "done(1.0); park()", broken("got `float`")
    ),
    "a million variables": Attack(
        "huge Done",
        "done(variables=[{'name': '', 'type': '', 'repr': ''}] * 140_000); park()",
        broken("2000"),
    ),
    "a million variables of no shape": Attack(
        "huge Done", "done(variables=[None] * 10**6); park()", broken("ELEMENT_LIMIT")
    ),
    "a variable of a megabyte": Attack(
        "huge Done",
        "done(variables=[{'name': 'x' * 2**20, 'type': '', 'repr': ''}]); park()",
        broken("<= 256"),
    ),
    "an error whose name is a megabyte": Attack(
        "huge Done",
        "done(error={'name': 'x' * 2**20, 'message': '', 'traceback': ''}); park()",
        broken("<= 256"),
    ),
    "a traceback of sixty megabytes": Attack(
        "huge Done",
        "done(error={'name': '', 'message': '', 'traceback': 'x' * (60 * 2**20)}); park()",
        broken("no Call or Final"),
    ),
    "a traceback of a hundred megabytes": Attack(
        "huge Done",
        "done(error={'name': '', 'message': '', 'traceback': 'x' * (100 * 2**20)}); park()",
        broken("the limit is 67108864"),
    ),
}

STATES = {
    "Ready again": Attack(
        "message out of state",
        "send({'type': 'Ready', 'python': '3', 'filtered': True, 'context': 'none', "
        "'context_s': 0.0}); park()",
        broken("Ready"),
    ),
    "Done of another cell": Attack("message out of state", "done(99); park()", broken("cell 99")),
    "Done of the next cell": Attack("message out of state", "done(2); park()", broken("cell 2")),
    "Done, and then the real one": Attack(
        "forged end", "done()", broken_later("Done received in state 'idle'")
    ),
    "Done with no cell open": Attack(
        "message out of state", "between_cells(done)", broken_later("Done received in state 'idle'")
    ),
    "a call with no cell open": Attack(
        "message out of state", "between_cells(call)", broken_later("Call received in state 'idle'")
    ),
    "an answer with no cell open": Attack(
        "message out of state",
        "between_cells(lambda: final(1))",
        broken_later("Final received in state 'idle'"),
    ),
    "a call after a forged Done, in one write": Attack(
        "forged end",
        "raw(b''.join(frame(pack(m)) for m in [{'type': 'Done', 'cell': 1}, {'type': 'Call', "
        "'call': 1, 'function': 'f', 'args': [], 'kwargs': {}}])); park()",
        broken_later("Call received in state 'idle'"),
    ),
    "output with no cell open": Attack(
        "flood",
        "def flood():\n    while True: output('x' * 500_000)\nbetween_cells(flood)",
        KilledLater("output", "bytes of output"),
    ),
    "a thread that a forged Done hides": Attack(
        "forged end",
        "def spin():\n    while True: pass\n"
        "threading.Thread(target=spin, daemon=True).start()\ndone(live_threads=0); park()",
        KilledLater("deadline", "threads left behind"),
        replace(HURRIED, cell_s=0.6),
    ),
    "the number of a call that was answered": Attack(
        "call numbers", "call(); os.read(FD, 9999); call(); park()", broken("call 1 is not new")
    ),
    "numbers that go down": Attack(
        "call numbers", "call(number=9); call(number=8); park()", broken("call 8 is not new")
    ),
    "number zero": Attack("call numbers", "call(number=0); park()", broken("call 0 is not new")),
    "the largest number, and then an honest call": Attack(
        "call numbers",
        "call(number=2**64 - 1); time.sleep(0.1); os.read(FD, 9999); f(); park()",
        broken("call 1 is not new"),
    ),
    "a number beyond 64 bits": Attack(
        "call numbers", "call(number=msgpack.ExtType(1, b'9' * 30)); park()", broken("$.call")
    ),
    "a function that was never given": Attack(
        "forged function", "call(function='eval'); park()", broken("was not given")
    ),
    "a function of every object": Attack(
        "forged function", "call(function='__class__'); park()", broken("was not given")
    ),
    "FINAL as a call": Attack(
        "forged function", "call('x', function='FINAL'); park()", broken("was not given")
    ),
    "a function of no name": Attack(
        "forged function", "call(function=''); park()", broken("length >= 1")
    ),
    "a function of a megabyte": Attack(
        "forged function", "call(function='f' * 2**20); park()", broken("length <= 256")
    ),
    "a function with a zero in its name": Attack(
        "forged function", r"call(function='f\0'); park()", broken("was not given")
    ),
}

FLOODS = {
    "printing past the limits": Attack(
        "flood", "while True: output('x' * 500_000)", Killed("output", "bytes of output")
    ),
    "printing nothing, without end": Attack(
        "flood of frames without weight",
        "while True: output()",
        Raised("KeyboardInterrupt", "cell_s"),
        HURRIED,
    ),
    "a hundred thousand prints of one character": Attack(
        "objects larger than their bytes",
        "one = frame(pack({'type': 'Output', 'stream': 'stderr', 'text': 'x'})) * 1000\n"
        "for _ in range(100): raw(one)",
        Harmless(),
    ),
    "more calls at once than allowed": Attack(
        # In one write: one by one, they would be answered as fast as a busy machine sends them.
        "flood",
        "raw(b''.join(called(number=i) for i in range(1, 99)))\npark()",
        broken("calls in flight"),
    ),
    "more calls than a cell may make": Attack(
        "flood", "while True: f()", Raised("LimitError", "calls_per_cell")
    ),
    "more answers than a cell may give": Attack(
        "flood",
        "while True:\n    try: FINAL(1)\n    except LimitError: raise\n"
        "    except BaseException: pass",
        Raised("LimitError", "calls_per_cell"),
    ),
    "a call of more than call_bytes": Attack(
        "oversized call", "f('x' * 2**21)", Raised("LimitError", "call_bytes")
    ),
    "replies that are never read": Attack(
        "never reads",
        "n = 0\nwhile True: n += 1; call(number=n, function='large'); time.sleep(0.2)",
        broken("replies that it does not read"),
        replace(LIMITS, calls_in_flight=64),
    ),
    "refusals that are never read": Attack(
        "never reads",
        "n = 60\nwhile True: n += 1; call(number=n)",
        Raised("KeyboardInterrupt", "cell_s"),
        replace(HURRIED, calls_per_cell=0),
    ),
}

ATTACKS = {**FRAMING, **VALUES, **MESSAGES, **STATES, **FLOODS}
