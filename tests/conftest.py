"""What every test is given."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import suppress
from functools import wraps
from inspect import iscoroutinefunction
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
import trustme
from hypothesis import HealthCheck, settings
from trio.testing import MockClock

from cpg_trio.logs import use_handler
from tests.certificates import LOCAL, WORKLOAD, Files
from tests.clocks import jumping_clock
from tests.names import Names, names_of
from tests.tracers import is_traced, stop_tracing, tracing_as_it_was

# How fast examples are drawn and run says something of the machine, and nothing of what is tested.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Have each worker compile a part of the suite for all of them, where nothing is compiled yet.

    Each one collects all of the tests. In the same order, all would compile the same file at the same time.
    Until it has done so it looks for no garbage: all that it makes stays.
    """
    gc.disable()
    worker, workers = os.environ.get("PYTEST_XDIST_WORKER"), os.environ.get("PYTEST_XDIST_WORKER_COUNT")
    if not (worker and workers) or session.config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return
    here, others = Path(__file__).parent, set(session.config.getini("norecursedirs"))
    files = sorted(here.rglob("test_*.py"))
    for file in files[int(worker.removeprefix("gw")) :: int(workers)]:
        path = file.relative_to(here.parent).with_suffix("")
        if others.isdisjoint(path.parts):
            with suppress(Exception, pytest.skip.Exception):  # the collection says what is wrong with it
                importlib.import_module(".".join(path.parts))


# Coverage traces each line, which costs two thirds more CPU time. So it looks at a part of what runs: what it
# reports is a lower bound. Nothing of this changes which tests run, nor how.
_MEASURED_CASES, _MEASURED_EXAMPLES, _MEASURED_STEPS = 2, 10, 2000
_PROCESSES = "COVERAGE_PROCESS_CONFIG"  # what has coverage start in child processes
_unmeasured = set[str]()


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem() -> Generator[None, object, object]:
    """Have coverage look at the imports of a collection, and not at what pytest makes of them."""
    with tracing_as_it_was():
        stop_tracing()
        return (yield)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Choose what is measured, and keep the tests out of the sight of the garbage collector.

    Of a test with many cases a few are measured, spread evenly, of a property the first examples, and of a
    test with tasks their first steps: others run the same lines again.

    The tests are there until the end. Those about memory collect often, and would look through all of them.
    """
    cases = defaultdict[str, list[str]](list)
    for item in session.items:
        cases[item.nodeid.partition("[")[0]].append(item.nodeid)
        if iscoroutinefunction(getattr(item, "obj", None)):
            item.add_marker(pytest.mark.trio(run=_run_measured), append=False)
    for of_one in cases.values():
        measured = {each * len(of_one) // _MEASURED_CASES for each in range(_MEASURED_CASES)}
        _unmeasured.update(case for number, case in enumerate(of_one) if number not in measured)
    tests = {id(test): test for item in session.items if (test := getattr(item, "obj", None)) is not None}
    for test in tests.values():
        handle = getattr(test, "hypothesis", None)
        if handle is not None and not iscoroutinefunction(handle.inner_test):
            handle.inner_test = _first_measured(handle.inner_test)
    gc.enable()
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Have coverage not look at the process that hands tests to others and runs none."""
    with tracing_as_it_was():
        if session.config.getoption("dist", "no") != "no" and "PYTEST_XDIST_WORKER" not in os.environ:
            stop_tracing()
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Have coverage look at a test, and at the processes that it starts, only where that tells more."""
    with pytest.MonkeyPatch.context() as patch, tracing_as_it_was():
        if item.get_closest_marker("measured_processes") is None:
            patch.delenv(_PROCESSES, raising=False)
        if item.nodeid in _unmeasured:
            stop_tracing()
        return (yield)


def _first_measured(test: Callable[..., None]) -> Callable[..., None]:
    """Return the body of a property, whose first calls alone are measured."""
    left = _MEASURED_EXAMPLES

    @wraps(test)
    def measured(*arguments: object, **named: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            stop_tracing()
        test(*arguments, **named)

    return measured


class _FirstSteps(trio.abc.Instrument):
    """Has coverage look at the first steps of all tasks."""

    def __init__(self) -> None:
        self._left = _MEASURED_STEPS

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - as trio calls it
        self._left -= 1
        if self._left < 0:
            stop_tracing()
            trio.lowlevel.remove_instrument(self)


def _run_measured(
    function: Callable[..., Awaitable[object]],
    clock: trio.abc.Clock | None,
    instruments: Sequence[trio.abc.Instrument],
) -> object:
    """Run a test with tasks."""
    first_steps = [_FirstSteps()] if is_traced() else []
    return trio.run(function, clock=clock, instruments=[*instruments, *first_steps])


@pytest.fixture(autouse=True)
def _path_of_modules() -> Iterator[None]:
    """Have what a platform file makes importable be so for its test alone."""
    before = sys.path[:]
    yield
    sys.path[:] = before


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder for sockets, whose paths have 107 bytes at most; `tmp_path` may be too deep for that."""
    with TemporaryDirectory(dir="/tmp", prefix="cpg-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A certificate for this machine, which names a workload too, and who vouches for it."""
    return Files.write(tmp_path_factory.mktemp("certificates"), trustme.CA(), *LOCAL, WORKLOAD)


@pytest.fixture(autouse=True, scope="session")
def _few_authorities(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have a client that trusts whom the system trusts read one certificate, in place of a hundred and more.

    That is most of what a client of httpx costs, and no test has any use for them.
    """
    file = tmp_path_factory.mktemp("authorities") / "ca.pem"
    trustme.CA().cert_pem.write_to_path(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(file))
        yield


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    """Name servers, which are silent until they are told what to say."""
    with names_of(monkeypatch) as silent:
        yield silent


@pytest.fixture(autouse=True, scope="session")
def _runtime_directory() -> Iterator[None]:
    """Have hosts put their admin sockets where no other host looks, and where they go away."""
    with TemporaryDirectory(dir="/tmp", prefix="cpg-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", folder)
        yield


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Undo what a test says of where the log goes: it is the whole process's."""
    root, own = logging.getLogger(), logging.getLogger("cpg_trio")
    plugins, output = logging.getLogger("cpg_trio.host.plugins"), logging.getLogger("cpg_trio.output")
    before = root.handlers[:], root.level, own.level, sys.excepthook, plugins.filters[:], output.propagate
    yield
    logging.captureWarnings(capture=False)
    use_handler(logging.NullHandler())  # so that the thread of the one before it ends
    root.handlers[:], root.level, own.level, sys.excepthook, plugins.filters[:], output.propagate = before


@pytest.fixture
def autojump_clock() -> MockClock:
    """A clock that jumps to the next deadline at once when nothing else happens: for what is in memory."""
    return jumping_clock()


@pytest.fixture
def virtual_time() -> MockClock:
    """A clock that jumps to the next deadline once nothing else happens, so that a wait takes no time.

    Hosts and plugins run in the process of the test, on real sockets. What one sends the other has at once,
    so nothing is on its way any more when all tasks have been waiting for a moment of real time.
    """
    return jumping_clock(0.01)
