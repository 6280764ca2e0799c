"""The warm process that each run is forked from. It knows the libraries and nothing else: no environment, no run's payload, no network.

It runs as `python -I`, reads one message a run from its standard input (a SOCK_SEQPACKET Unix socket: JSON, with descriptors beside
it), forks, and watches: wall limit, kill of the run with all in its pid namespace, wait4. Code, frames and results pass it by, on the
run's own descriptors, so a later fork inherits no byte of an earlier run. It never unpickles.
"""

import array
import contextlib
import ctypes
import gc
import importlib
import json
import os
import re
import select
import shutil
import signal
import socket
import sys
import sysconfig
import tempfile
import time
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from twofold.sandbox import child, jail, syscalls

PRELOAD = ("numpy", "pandas", "pyarrow", "matplotlib.pyplot", "seaborn", "scipy.stats", "sklearn.ensemble", "sklearn.linear_model",
           "sklearn.model_selection", "sklearn.pipeline", "sklearn.compose", "sklearn.metrics",
           "sklearn.cluster", "sklearn.preprocessing", "sklearn.impute", "sklearn.tree",
           "sklearn.neighbors", "sklearn.decomposition", "sklearn.datasets", "statsmodels.api", "statsmodels.formula.api")  # fmt: skip
SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo", "/usr/share/fonts", "/usr/local/share/fonts",
          "/usr/share/locale",
          "/usr/share/mime", "/etc/localtime", "/etc/timezone", "/etc/ld.so.cache", "/etc/fonts", "/etc/mime.types")  # fmt: skip
PROCESSORS = (
    "/sys/devices/system/cpu",
    "/sys/fs/cgroup/cpu.max",
    "/sys/fs/cgroup/cpu/cpu.cfs_quota_us",
    "/sys/fs/cgroup/cpu/cpu.cfs_period_us",
)
"""joblib counts processors with these; they are only there when the mount namespace is not."""


@dataclass(slots=True)
class _State:
    off: frozenset[str]
    layers: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    uid: int | None = None
    home: int = -1
    read: tuple[str, ...] = ()
    running: dict[int, "_Running"] = field(default_factory=dict)
    spare: int = 0
    line: socket.socket | None = None


@dataclass(slots=True)
class _Running:
    control: socket.socket
    deadline: float
    folder: str
    stopped: str = ""


def installation() -> tuple[str, ...]:
    """The folders and files that Python and its packages are read from."""
    paths = {
        sys.base_prefix,
        sys.prefix,
        sys.exec_prefix,
        *SYSTEM,
        *(path for path in sysconfig.get_paths().values() if "include" not in path),
    }
    if sys.base_prefix == "/usr":
        paths -= {"/usr"}
    if sys.prefix == "/usr":
        paths -= {"/usr", "/usr/bin", "/usr/local/bin"}
    paths |= {path for path in sys.path if os.path.exists(path)}
    return tuple(sorted(path for path in paths if path not in ("/", "")))


def _enter(state: _State) -> None:
    """Take up the layers that are for the zygote itself, and note which of those for the runs are there."""
    state.read = (*installation(), *PROCESSORS)
    supported = bool(syscalls.machine())
    if "namespaces" not in state.off:
        try:
            if not supported:
                raise OSError(f"not known on {os.uname().machine}")
            trial = os.fork()  # unshare takes effect piece by piece; a failure must not leave half of it
            if trial == 0:
                try:
                    jail.enter_namespaces()
                    if os.fork() == 0:
                        home = os.open("/proc/self/ns/pid", os.O_RDONLY)
                        jail.new_root(installation())
                        if (run := jail.fork_in_pid_namespace(home)) == 0:
                            jail.private_scratch(1 << 20, os.geteuid())
                            os._exit(0)
                        os._exit(os.waitstatus_to_exitcode(os.waitpid(run, 0)[1]) & 0xFF)
                    os._exit(os.waitstatus_to_exitcode(os.wait()[1]) & 0xFF)
                except BaseException as error:  # noqa: BLE001  only the exit code travels
                    if "TWOFOLD_SANDBOX_DEBUG" in os.environ:
                        traceback.print_exception(error)
                    os._exit(1)
            if os.waitpid(trial, 0)[1] != 0:
                raise OSError("the kernel or the container refuses new namespaces")
            mapped = jail.enter_namespaces()
            inner = os.fork()
            if inner:
                _outlive(inner)
            jail.die_with_parent()
            state.home = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
            jail.new_root(installation())
            state.layers.append("namespaces")
            if mapped and "user" not in state.off:
                state.uid = jail.OUTER_UID
        except OSError as error:
            state.missing["namespaces"] = str(error)
    if supported and "user" not in state.off:
        state.layers.append("user")
        if state.uid is None and os.geteuid() == 0 and _others_can_read():
            state.uid = jail.OUTER_UID
    if "rlimits" not in state.off:
        state.layers.append("rlimits")
    for name, there in (("landlock", jail.landlock_abi() > 0), ("seccomp", jail.seccomp_available())):
        if name not in state.off:
            if there:
                state.layers.append(name)
            else:
                state.missing[name] = "the kernel does not offer it"


def _others_can_read() -> bool:
    """Whether another user than root reaches this Python, which may lie below a closed home folder."""
    trial = os.fork()
    if trial == 0:
        try:
            jail.become(jail.OUTER_UID)
            os._exit(0 if all(os.access(path, os.R_OK) for path in (os.__file__, child.__file__)) else 1)
        finally:
            os._exit(1)
    return os.waitpid(trial, 0)[1] == 0


def _outlive(inner: int) -> None:
    """Wait for the real zygote, which is process 1 of its namespace, and end as it ends."""
    for descriptor in (0, 1):
        os.close(descriptor)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]) & 0xFF)


def _preload() -> None:
    filters = warnings.filters[:]
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="twofold-warm-") as folder:
        os.environ["MPLCONFIGDIR"] = folder  # where matplotlib leaves its list of fonts
        for module in PRELOAD:
            with contextlib.suppress(ImportError):
                importlib.import_module(module)
        child.warm()
    warnings.filters[:] = filters  # type: ignore[index]
    gc.collect()
    gc.freeze()  # the collector would otherwise write to, and so copy, every page
    _collapse()


def _collapse() -> None:
    """Gather the heap in huge pages: a fork then copies a few hundred table entries in place of tens of thousands. Linux 6.1."""
    try:
        libc = ctypes.CDLL(None)
        with open("/proc/self/maps") as maps:
            lines = maps.readlines()
    except OSError:
        return
    for line in lines:
        match = re.match(r"(\w+)-(\w+) rw-p 00000000 00:00 0", line)
        if match:
            start, end = -(-int(match[1], 16) >> 21) << 21, int(match[2], 16) >> 21 << 21
            if end > start:
                libc.madvise(ctypes.c_size_t(start), ctypes.c_size_t(end - start), 25)  # MADV_COLLAPSE


def main() -> None:
    """Serve until the socket on descriptor 0 closes."""
    options = json.loads(sys.argv[1])
    control = socket.socket(fileno=0)
    state = _State(frozenset(options["off"]))
    _enter(state)
    _preload()
    control.send(json.dumps({"layers": state.layers, "missing": state.missing, "landlock": jail.landlock_abi()}).encode())
    poller = select.poll()
    poller.register(control, select.POLLIN)
    _spare(state)
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    poller.register(woken, select.POLLIN)
    while True:
        now = time.monotonic()
        for pid, one in state.running.items():
            if one.deadline <= now and not one.stopped:
                one.stopped = "wall"
                _kill(pid)
        waits = [one.deadline - now for one in state.running.values() if not one.stopped]
        for descriptor, event in poller.poll(max(1, int(1000 * min(waits)) + 1) if waits else None):
            if descriptor == woken:
                with contextlib.suppress(BlockingIOError):
                    os.read(woken, 4096)
            elif descriptor == control.fileno():
                message, rights, _, _ = _receive(control)
                if not message:
                    for pid in state.running:
                        _kill(pid)
                    for one in state.running.values():
                        shutil.rmtree(one.folder, ignore_errors=True) if one.folder else None
                    os._exit(0)
                _start(state, json.loads(message), rights, poller)
            else:  # a client that says stop, or is gone
                for pid, one in state.running.items():
                    if one.control.fileno() == descriptor and (not one.stopped or event & ~select.POLLIN):
                        one.stopped = one.stopped or "asked"
                        poller.unregister(descriptor)
                        _kill(pid)
        _reap(state, poller)
        if state.line is None:
            with contextlib.suppress(OSError):  # too many processes: the next run tries again
                _spare(state)


def _receive(control: socket.socket) -> tuple[bytes, list[int], int, Any]:
    message, ancillary, flags, address = control.recvmsg(1 << 16, socket.CMSG_LEN(5 * 4), socket.MSG_CMSG_CLOEXEC)
    rights = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            rights.frombytes(data[: len(data) - len(data) % 4])
    return message, list(rights), flags, address


def _kill(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)


def _reap(state: _State, poller: select.poll) -> None:
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        one = state.running.pop(pid, None)
        if pid == state.spare and state.line is not None:
            state.line.close()
            state.spare, state.line = 0, None
        if one is None:
            continue
        _kill(pid)  # what is left of its group, where there is no pid namespace
        with contextlib.suppress(KeyError):
            poller.unregister(one.control)
        if one.folder:
            shutil.rmtree(one.folder, ignore_errors=True)
        ended = {"code": os.waitstatus_to_exitcode(status), "cpu": usage.ru_utime + usage.ru_stime, "stopped": one.stopped}
        with contextlib.suppress(OSError):
            one.control.send(json.dumps(ended).encode())
        one.control.close()


def _spare(state: _State) -> None:
    """Fork the next run ahead of its order: most of the time that a run takes to begin is this."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = jail.fork_in_pid_namespace(state.home) if state.home >= 0 else os.fork()
    if pid == 0:
        try:
            jail.die_with_parent()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.dup2(theirs.fileno(), 0)
            jail.close_descriptors((0, 1, 2))
            message, rights, _, _ = _receive(socket.socket(fileno=0))
            if message:
                _become_the_run(state, json.loads(message), rights)
        except BaseException as error:  # noqa: BLE001  it must not return into the zygote's loop
            traceback.print_exception(error)
        finally:
            os._exit(99)
    theirs.close()
    state.spare, state.line = pid, ours


def _start(state: _State, order: dict[str, Any], rights: list[int], poller: select.poll) -> None:
    """Begin one run. rights: control socket, payload, report, stdout, stderr."""
    control = socket.socket(fileno=os.dup(rights[0]))
    control.setblocking(False)
    try:
        if state.line is None:
            _spare(state)
        order["folder"] = "" if "namespaces" in state.layers else tempfile.mkdtemp(prefix="twofold-run-")
        assert state.line is not None
        socket.send_fds(state.line, [json.dumps(order).encode()], rights)
    except OSError as error:
        control.send(json.dumps({"code": -1, "cpu": 0.0, "stopped": f"no process: {error}"}).encode())
        control.close()
        _kill(state.spare) if state.spare else None
    else:
        state.running[state.spare] = _Running(control, time.monotonic() + order["wall"], order["folder"])
        poller.register(control, select.POLLIN)
    for one in rights:
        os.close(one)
    if state.line is not None:
        state.line.close()
    state.spare, state.line = 0, None


def _become_the_run(state: _State, order: Mapping[str, Any], rights: list[int]) -> None:
    """The child's way from a copy of the zygote to a locked-up process that runs the code. A failure on it ends the run."""
    number, payload, report, out, err = rights
    folder = order["folder"]
    try:
        control = socket.socket(fileno=number)
        os.setsid()
        null = os.open("/dev/null", os.O_RDONLY)
        for source, target in ((null, 0), (out, 1), (err, 2)):
            os.dup2(source, target)
        if folder:
            scratch, handle = folder, os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            if state.uid is not None:
                os.chown(folder, state.uid, state.uid)
        else:
            scratch, handle = jail.SCRATCH, jail.private_scratch(order["scratch"], state.uid if state.uid is not None else os.geteuid())
        socket.send_fds(control, [b"scratch"], [handle])
        jail.close_descriptors((0, 1, 2, payload, report))
        if "user" in state.layers:
            if state.uid is not None:
                jail.become(state.uid)
            jail.drop_capabilities()
        jail.die_with_parent()
        os.chdir(scratch)
        for name in ("work", child.FIGURES):
            os.mkdir(name)
        os.chdir("work")
        if "rlimits" in state.layers:
            processes = order["processes"] if "namespaces" in state.layers else None
            jail.set_limits(order["cpu"], order["memory"], order["file_size"], order["files"], processes)
        jail.no_new_privileges()
        if "landlock" in state.layers:
            jail.landlock(state.read, scratch)
        if "seccomp" in state.layers:
            jail.seccomp()
    except BaseException as error:  # noqa: BLE001  whatever it is, the code must not run without its jail
        os.write(report, json.dumps({"setup": f"{type(error).__name__}: {error}"}).encode() + b"\n")
        os._exit(98)
    try:
        child.main(payload, report, scratch)
    except BaseException as error:  # noqa: BLE001  what hostile code broke on the way to the report is shown on its stderr
        os.write(2, "".join(traceback.format_exception(error)).encode("utf-8", "replace"))
