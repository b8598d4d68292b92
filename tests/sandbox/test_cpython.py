"""CPython's own tests pass inside the jail: what an honest program needs of Python is all there.

The stage leaves the package ``test`` out, so it is bound in beside it, read-only. Each module
runs in a jail of its own. A case that needs what a jail denies is left out by name, with the
reason; a module counts if more than 80 % of its cases run, and pass.
"""

import hashlib
import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from distill.protocol.jail_link import Limits
from distill.protocol.sandbox_link import CellDone, JailReady
from distill.sandbox import cache
from tests.sandbox.conftest import MIB
from tests.sandbox.harness import Host
from tests.security.keepers import running_host

INSIDE = "/cpython"
LEAST_SHARE = 0.8
FOLDERS = ("support", "data", "mathdata", "decimaltestdata", "typinganndata", "ziptestdata")
"""Beside the modules that are folders themselves."""
LARGE_BYTES = 2 * MIB
"""Data of tests that are not run here is left out."""
LIMITS = Limits(memory_bytes=1024 * MIB, cell_s=100.0, threads=256)
"""More threads than a run gets: two of queue's cases start a hundred."""

MODULES = (
    "test_abc test_array test_base64 test_binascii test_bisect test_bool test_builtin test_bytes "
    "test_cmath test_collections test_complex test_contextlib test_contextlib_async test_copy "
    "test_csv test_dataclasses test_datetime test_decimal test_defaultdict test_deque test_dict "
    "test_difflib test_enum test_float test_format test_fractions test_fstring test_functools "
    "test_generators test_hashlib test_heapq test_hmac test_html test_int test_iter test_itertools "
    "test_json test_list test_math test_operator test_pickle test_pprint test_random test_range "
    "test_re test_reprlib test_sched test_set test_shlex test_slice test_sort test_statistics "
    "test_string test_struct test_tempfile test_textwrap test_tuple test_types test_typing "
    "test_weakref test_zlib"
).split()
SLOW_MODULES = ("test_queue", "test_threading")
RENAMED = {"test_str": "test_unicode"}
"""New name → the one before (3.13)."""

PROCESS = "it starts a process"
C_API = "it needs _testcapi, an extension module for tests alone"
WRITES = "it writes a module beside ours"
HOOKED = "it looks at threading's own excepthook, and ours names the cells"
LEFT_OUT: dict[str, str] = {
    "test_base64.TestMain.*": PROCESS,
    "test_builtin.ShutdownTest.test_cleanup": PROCESS,
    "test_bytes.*.test_check_encoding_errors": PROCESS,
    "test_format.FormatTest.test_precision_c_limits": C_API,
    "test_fstring.TestCase.test_filename_in_syntaxerror": PROCESS,
    "test_json.test_tool.*": PROCESS,
    "test_pickle.*.test_unpickle_module_race": WRITES,
    "test_random.TestModule.test_after_fork": PROCESS,
    "test_re.ReTests.test_regression_gh94675": PROCESS,
    "test_str.UnicodeTest.test_check_encoding_errors": PROCESS,
    "test_struct.StructTest.test_struct_cleans_up_at_runtime_shutdown": PROCESS,
    "test_tempfile.TestMkstempInner.test_noinherit": PROCESS,
    "test_tempfile.TestRandomNameSequence.test_process_awareness": PROCESS,
    "test_tempfile.TestTemporaryDirectory.test_*on_shutdown*": PROCESS,
    "test_weakref.FinalizeTestCase.test_atexit": PROCESS,
    "test_weakref.ReferencesTestCase.test_cfunction": C_API,
    "test_threading.*fork*": PROCESS,
    "test_threading.AtexitTests.*": PROCESS,
    "test_threading.ExceptHookTests.test_excepthook_thread_None": HOOKED,
    "test_threading.MiscTestCase.test__all__": HOOKED,
    "test_threading.SubinterpThreadingTests.*": f"{PROCESS}, or {C_API}",
    "test_threading.ThreadJoinOnShutdown.*": PROCESS,
    "test_threading.ThreadTests.test_finali*": PROCESS,
    "test_threading.ThreadTests.test_frame_tstate_tracing": C_API,
    "test_threading.ThreadTests.test_import_from_another_thread": PROCESS,
    "test_threading.ThreadTests.test_join_nondaemon_on_shutdown": PROCESS,
    "test_threading.ThreadTests.test_locals_at_exit": PROCESS,
    "test_threading.ThreadTests.test_main_thread_during_shutdown": PROCESS,
    "test_threading.ThreadingExceptionTests.test_print_exception*": PROCESS,
    "test_threading.ThreadingExceptionTests.test_recursion_limit": PROCESS,
}

RUN = """
import json, sys, unittest, warnings
sys.path.append({inside!r})
import test.support
test.support.use_resources = []  # no network, no large files, nothing that takes minutes
def cases(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite): yield from cases(item)
        else: yield item
def run(name, left_out):
    warnings.simplefilter('default')
    found = list(cases(unittest.defaultTestLoader.loadTestsFromName('test.' + name)))
    chosen = [case for case in found if case.id().removeprefix('test.') not in left_out]
    result = unittest.TestResult()
    unittest.TestSuite(chosen).run(result)
    failed = result.failures + result.errors
    return {{
        'cases': len(found),
        'ran': result.testsRun - len({{case.id() for case, _ in result.skipped}}),
        'failed': [(case.id(), text[-400:]) for case, text in failed],
    }}
def names(name):
    suite = unittest.defaultTestLoader.loadTestsFromName('test.' + name)
    return [case.id().removeprefix('test.') for case in cases(suite)]
"""


@dataclass(frozen=True)
class Report:
    """What one module's cases did."""

    cases: int
    ran: int
    failed: list[list[str]]


def source() -> Path:
    """Where this Python keeps its tests."""
    found = importlib.util.find_spec("test.support")
    if found is None or found.origin is None:
        pytest.skip("this Python comes without its tests")
    return Path(found.origin).parent.parent


def present(name: str) -> str:
    """The module's name in this version."""
    return name if importlib.util.find_spec(f"test.{name}") else RENAMED[name]


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    tests = source()
    folders = {*FOLDERS, *MODULES}

    def unwanted(folder: str, names: list[str]) -> set[str]:
        here = Path(folder)
        at_top = here == tests
        return {
            name
            for name in names
            if (at_top and (here / name).is_dir() and name not in folders)
            or ((here / name).is_file() and (here / name).stat().st_size > LARGE_BYTES)
        }

    def build(draft: Path) -> None:
        shutil.copytree(tests, draft / "test", ignore=unwanted)
        for path in draft.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o444)

    key = hashlib.sha256(" ".join(sorted(folders)).encode()).hexdigest()[:12]
    staged = cache.entry("cpython-tests", f"{sys.hexversion:x}-{key}", build)
    with running_host() as host:
        argv = list(host.plan.argv)
        place = argv.index("--remount-ro")
        argv[place:place] = ["--ro-bind", str(staged), INSIDE]
        host.plan = replace(host.plan, argv=tuple(argv))
        yield host


def in_jail(host: Host, expression: str) -> Any:
    """The value of an expression of RUN's names."""
    code = RUN.format(inside=INSIDE) + f"found = {expression}\n"
    code += "sys.stdout.write('\\n@@' + json.dumps(found)); None"
    done = host.run(code, timeout_s=LIMITS.cell_s)
    assert isinstance(done, CellDone), done
    assert done.error is None, done.error.traceback
    return json.loads(done.stdout.rpartition("@@")[2])


@pytest.mark.parametrize(
    "name",
    [*MODULES, "test_str", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_MODULES)],
)
def test_module(host: Host, name: str) -> None:
    assert isinstance(host.open(LIMITS), JailReady)
    here = present(name)
    left_out = [
        case
        for case in in_jail(host, f"names({here!r})")
        if any(fnmatchcase(case.replace(here, name, 1), pattern) for pattern in LEFT_OUT)
    ]
    report = Report(**in_jail(host, f"run({here!r}, {left_out!r})"))
    assert not report.failed, report.failed
    assert report.ran > LEAST_SHARE * report.cases, report


def test_there_are_enough_modules() -> None:
    assert len(MODULES) >= 30
