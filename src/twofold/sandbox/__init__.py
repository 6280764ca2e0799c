"""Run untrusted Python: a warm process to fork from, limits, and what was seen.

run = sandbox.run("df.groupby('city')['price'].mean()", frames=[("df", frame)]) run.ok, run.stdout, run.result, run.error, run.plots

On Linux a run is locked into namespaces, a user of its own, rlimits, Landlock and seccomp, as far as the kernel offers them; `level()`
tries the doors and says what holds. Elsewhere a run is a plain subprocess with limits, called weak. Limits: a run with all doors closed
still shares the kernel and the processor with the host; and what it says of itself (its result, that it ended well) is its own word,
while level, seconds, kills and the form of pictures are not.
"""

import atexit
import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twofold.sandbox import child, collect
from twofold.sandbox.collect import Table
from twofold.types import Run, TwofoldError

__all__ = ["Limits", "Outcome", "Sandbox", "Table", "effects", "level", "run"]

LEVELS = ("weak", "medium", "strong")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may use up."""

    wall: float = 20.0
    """Seconds from start to end."""
    cpu: int = 10
    """Seconds of processor, all threads together."""
    memory: int = 3 << 30
    """Bytes of address space, the libraries' 0.6 GB included."""
    file_size: int = 32 << 20
    """Bytes of one file."""
    scratch: int = 128 << 20
    """Bytes of all files together; held where mount namespaces are."""
    files: int = 128
    """Open descriptors."""
    threads: int = 512
    """Threads of all runs together; held where user namespaces are. Address space ends most sooner."""
    output: int = 100_000
    """Characters of stdout, and of stderr, that are kept. A run that writes 200 times that is stopped."""


@dataclass(frozen=True, slots=True)
class Outcome(Run):
    """A Run with all that the sandbox saw."""

    stderr: str = ""
    result: str = ""
    """repr of the last line's value; "" when it is no expression, is None or ends in a semicolon."""
    frames: tuple[Table, ...] = ()
    """DataFrames that the code made."""
    files: tuple[str, ...] = ()
    """Names in the working directory at the end, given files among them."""
    line: int = 0
    """The line of the code where it failed; 0 when none is known."""
    stopped: str = ""
    """"wall", "cpu", "output" or a signal's name when the run was killed."""
    after: str = ""
    """What the `after` code printed."""
    after_error: str = ""
    """How the `after` code failed."""


@dataclass(slots=True)
class _Seen:
    """What has come out of a run so far."""

    out: bytearray = field(default_factory=bytearray)
    err: bytearray = field(default_factory=bytearray)
    report: bytearray = field(default_factory=bytearray)
    flood: int = 0
    scratch: int = -1
    ended: dict[str, Any] | None = None
    over: bool = False


def _environment() -> dict[str, str]:
    """All that the zygote and so a run sees of the environment."""
    one = dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
    )
    fixed = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "MPLBACKEND": "Agg", "HOME": "/tmp", "TMPDIR": "/tmp"}
    if sys.platform == "win32":  # Python does not start without these
        fixed = {name: os.environ[name] for name in ("SYSTEMROOT", "TEMP", "TMP") if name in os.environ} | {"MPLBACKEND": "Agg"}
    return one | fixed | {"LOKY_MAX_CPU_COUNT": str(os.cpu_count() or 1), "MALLOC_ARENA_MAX": "2"}


def _command(module: str, *arguments: str) -> list[str]:
    root = str(Path(__file__).parents[2])
    boot = f"import sys; sys.path.append({root!r}); import twofold.sandbox.{module} as m; sys.path.remove({root!r}); m.main()"
    return [sys.executable, "-I", "-X", "utf8", "-c", boot, *arguments]


class Sandbox:
    """Owns one zygote. Safe to use from many threads; close() ends it, and a zygote that died is started again by the next run."""

    def __init__(self, off: Iterable[str] = (), plain: bool = sys.platform != "linux") -> None:
        """off: layers (jail.LAYERS) left out, to measure what each holds. plain: no zygote, a new process each run, as off Linux."""
        self.off = tuple(sorted(off))
        self.plain = plain
        self.about: dict[str, Any] = {}
        """What the zygote says of itself: layers, missing, landlock."""
        self._lock = threading.Lock()
        self._probing = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._effects: dict[str, bool] | None = None

    # --- the zygote ---

    def start(self) -> None:
        """Start the zygote if it is not running, which takes a few seconds of imports. Raises TwofoldError when it cannot be started."""
        if not self.plain:
            with self._lock:
                self._running()

    def _running(self) -> socket.socket:
        if self._process is not None and self._process.poll() is None and self._control is not None:
            return self._control
        self._stop()
        self._effects = None
        atexit.register(self.close)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = _environment()
        debug = None if os.environ.get("TWOFOLD_SANDBOX_DEBUG") else subprocess.DEVNULL
        command = _command("zygote", json.dumps({"off": self.off}))
        self._process = subprocess.Popen(
            command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=debug, env=environment, cwd="/", start_new_session=True
        )
        theirs.close()
        ours.settimeout(120)
        try:
            hello = ours.recv(1 << 16)
        except OSError:
            hello = b""
        if not hello:
            ours.close()
            self._stop()
            raise TwofoldError("the sandbox did not start: run again with TWOFOLD_SANDBOX_DEBUG=1 to see why, or without --verify")
        self.about = json.loads(hello)
        self._control = ours
        return ours

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(2)
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End the zygote and all runs in it."""
        atexit.unregister(self.close)
        with self._lock:
            self._stop()

    def __enter__(self) -> "Sandbox":
        """Itself; the end of the with block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """close()."""
        self.close()

    @property
    def pid(self) -> int:
        """Process id of the zygote, 0 when it is not running."""
        return self._process.pid if self._process is not None and self._process.poll() is None else 0

    # --- a run ---

    def run(
        self,
        code: str,
        *,
        frames: Iterable[tuple[str, Any]] = (),
        files: Iterable[str | Path] = (),
        limits: Limits | None = None,
        after: str = "",
    ) -> Outcome:
        """Run code as a notebook cell. What it does wrong is in the Outcome; TwofoldError is for wrong arguments or a sandbox that
        cannot start.

        frames: (name, DataFrame) pairs, copied in. files: paths, copied into the working directory under their last name. after: code
        that runs in the same namespace once the first has ended well, `_last` being its last value; what it prints and raises is kept
        apart.
        """
        level = self.level()
        return self._run(code, tuple(frames), tuple(files), limits or Limits(), after, level)

    def _run(
        self, code: str, frames: Sequence[tuple[str, Any]], files: Sequence[str | Path], limits: Limits, after: str, level: str
    ) -> Outcome:
        token = secrets.token_hex(16)
        payload = _payload(code, frames, files, after, token)
        if self.plain:
            return _plain(payload, token, limits, level)
        started = time.perf_counter()
        for attempt in (1, 2):
            seen = self._attempt(payload, limits)
            if seen is not None:
                break
            if attempt == 2:
                raise TwofoldError("the sandbox ended twice during a run: run `twofold doctor`")
        assert seen is not None
        try:
            plots, names = collect.pictures(seen.scratch) if seen.scratch >= 0 else ((), ())
        finally:
            if seen.scratch >= 0:
                os.close(seen.scratch)
        fields = _judge(seen.report, seen.ended or {}, token, limits, seen.over)
        texts: dict[str, Any] = {"stdout": _decode(seen.out, limits.output), "stderr": _decode(seen.err, limits.output)}
        return Outcome(**fields, **texts, plots=plots, files=names, seconds=time.perf_counter() - started, level=level)

    def _attempt(self, payload: bytes, limits: Limits) -> _Seen | None:
        """Hand one run to the zygote and watch it. None when the zygote died before it said how the run ended."""
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pipes = [os.pipe() for _ in range(3)]
        order = {"wall": limits.wall, "cpu": limits.cpu, "memory": limits.memory, "file_size": limits.file_size, "files": limits.files}
        order |= {"scratch": limits.scratch, "processes": limits.threads}
        memory = os.memfd_create("run")
        seen = _Seen()
        try:
            with os.fdopen(memory, "w+b", closefd=False) as file:
                file.write(payload)
                file.flush()
                file.seek(0)
            with self._lock:
                try:
                    socket.send_fds(
                        self._running(), [json.dumps(order).encode()], [theirs.fileno(), memory, *(writer for _, writer in pipes)]
                    )
                except OSError:
                    self._stop()
                    return None
            for one in (memory, *(writer for _, writer in pipes)):
                os.close(one)
            memory, pipes = -1, [(reader, -1) for reader, _ in pipes]
            theirs.close()
            self._watch(control, [reader for reader, _ in pipes], limits, seen)
        except BaseException:
            if seen.scratch >= 0:
                os.close(seen.scratch)
            raise
        finally:
            control.close()
            theirs.close()
            for one in (memory, *(end for pair in pipes for end in pair)):
                if one >= 0:
                    os.close(one)
        if seen.report or seen.over or (seen.ended and ("code" in seen.ended or "stopped" in seen.ended)):
            return seen
        if seen.scratch >= 0:
            os.close(seen.scratch)
        self.close()  # it died without a word of how the run ended; a run has no effects outside, so it may be done again
        return None

    def _watch(self, control: socket.socket, readers: Sequence[int], limits: Limits, seen: _Seen) -> None:
        """Read until the report is there, the run ended, or time is up. The zygote keeps the wall limit; this is the second guard."""
        report, out, err = readers
        poller = select.poll()
        for one in (control.fileno(), *readers):
            os.set_blocking(one, False)
            poller.register(one, select.POLLIN)
        deadline = time.monotonic() + limits.wall + 10
        while seen.ended is None:
            left = deadline - time.monotonic()
            if left <= 0:
                self.close()
                seen.ended = {"stopped": "wall"}
                break
            ready = [descriptor for descriptor, _ in poller.poll(left * 1000)]
            for one, kept, most in (
                (out, seen.out, 8 * limits.output),
                (err, seen.err, 8 * limits.output),
                (report, seen.report, collect.REPORT_BYTES),
            ):
                if one in ready and _drain(one, kept, most, seen):
                    poller.unregister(one)
            if not seen.over and seen.flood > 200 * limits.output + collect.REPORT_BYTES:
                seen.over = True
                with suppress(OSError):
                    control.send(b"stop")
            if seen.report.endswith(b"\n") and not seen.over:
                break
            if control.fileno() in ready:
                _hear(control, seen)
        if seen.ended is None:  # the report is there: what the run does from now on does not matter
            with suppress(OSError):
                control.send(b"stop")
            _hear(control, seen)
        for one, kept, most in (
            (out, seen.out, 8 * limits.output),
            (err, seen.err, 8 * limits.output),
            (report, seen.report, collect.REPORT_BYTES),
        ):
            _drain(one, kept, most, seen)

    # --- what holds ---

    def effects(self) -> dict[str, bool]:
        """Which doors are closed: each is tried from inside a run, with canaries outside, once for each start of the zygote."""
        with self._probing:
            if not self.plain:
                with self._lock:
                    self._running()
            if self._effects is None:
                self._effects = _probe(self)
            return dict(self._effects)

    def level(self) -> str:
        """How much holds of what effects() tries: all "strong", no write, network, program, signal or memory "medium", else "weak"."""
        held = self.effects()
        if all(held.values()):
            return "strong"
        return "medium" if all(held[name] for name in ("write", "delete", "network", "exec", "signal", "memory")) else "weak"


def _drain(descriptor: int, kept: bytearray, most: int, seen: _Seen) -> bool:
    """Take what is there now, keeping so much. True at the end of the stream."""
    for _ in range(64):  # a flood must not keep the caller here
        try:
            part = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return False
        except OSError:
            return True
        if not part:
            return True
        seen.flood += len(part)
        kept += part[: max(0, most - len(kept))]
    return False


def _hear(control: socket.socket, seen: _Seen) -> None:
    """Messages of the zygote about this run: the scratch's descriptor first, how it ended last."""
    while True:
        try:
            message, descriptors, _, _ = socket.recv_fds(control, 1 << 16, 4)
        except BlockingIOError:
            return
        except OSError:
            message, descriptors = b"", []
        for one in descriptors:
            if seen.scratch >= 0:
                os.close(seen.scratch)
            seen.scratch = one
        if not message:
            seen.ended = seen.ended or {}
            return
        if not descriptors:
            seen.ended = json.loads(message)
            return


def _decode(data: bytearray, limit: int) -> str:
    return collect.text(data.decode("utf-8", "replace"), limit)


def _payload(code: str, frames: Sequence[tuple[str, Any]], files: Sequence[str | Path], after: str, token: str) -> bytes:
    header: dict[str, Any] = {"code": code, "after": after, "token": token, "frames": [], "files": []}
    blobs = []
    for name, frame in frames:
        encoded = child.encode_frame(frame)
        if encoded is None or not name.isidentifier():
            raise TwofoldError(f"frames: {name!r} must be the name of a variable and its value a DataFrame")
        header["frames"].append([name, encoded[0], len(encoded[1])])
        blobs.append(encoded[1])
    for path in map(Path, files):
        try:
            blobs.append(path.read_bytes())
        except OSError as error:
            raise TwofoldError(f"files: {path} cannot be read ({error.strerror})") from None
        header["files"].append([path.name, len(blobs[-1])])
    return child.pack(header, blobs)


def _judge(report: bytearray, ended: Mapping[str, Any], token: str, limits: Limits, over: bool) -> dict[str, Any]:
    """The fields of the Outcome that tell how the run went: from its own report, or from how it died."""
    fields = None if over else collect.report(bytes(report.partition(b"\n")[0]), token)
    if fields is not None:
        return fields
    if report.startswith(b'{"setup"') and len(report) < 2000:
        with suppress(ValueError, RecursionError):
            setup = json.loads(report)["setup"]
            return {"ok": False, "error": f"the sandbox could not lock the run up, so it did not run: {collect.text(setup, 300)}"}
    code = ended.get("code", 0)
    name = signal.Signals(-code).name if code < 0 and -code in {int(one) for one in signal.Signals} else ""
    if over:
        return {"ok": False, "stopped": "output", "error": f"stopped: it wrote more than {200 * limits.output:,} characters"}
    if ended.get("stopped") == "wall":
        return {"ok": False, "stopped": "wall", "error": f"stopped after {limits.wall:g} seconds"}
    if name in ("SIGKILL", "SIGXCPU") and ended.get("cpu", 0) >= limits.cpu - 0.5:
        return {"ok": False, "stopped": "cpu", "error": f"stopped after {limits.cpu} seconds of processor time"}
    if name:
        return {"ok": False, "stopped": name, "error": f"the code made Python crash ({name})"}
    if str(ended.get("stopped", "")).startswith("no process"):
        return {"ok": False, "error": f"the sandbox got {ended['stopped']}"}
    return {"ok": False, "error": "the code ended Python before its result was reported"}


# --- no zygote: macOS, Windows ---


def _plain(payload: bytes, token: str, limits: Limits, level: str) -> Outcome:
    """One run in a new interpreter with limits, in a folder of its own. It is not locked up."""
    started = time.perf_counter()
    scratch = tempfile.mkdtemp(prefix="twofold-run-")
    try:
        for name in ("work", child.FIGURES):
            os.mkdir(os.path.join(scratch, name))
        ended: dict[str, Any] = {}
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            settings = json.dumps(
                {"scratch": scratch, "cpu": limits.cpu, "memory": limits.memory, "file_size": limits.file_size, "files": limits.files}
            )
            process = subprocess.Popen(
                _command("plain", settings),
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                env=_environment(),
                cwd=scratch,
                start_new_session=True,
            )
            try:
                process.communicate(payload, timeout=limits.wall)
            except subprocess.TimeoutExpired:
                ended["stopped"] = "wall"
            if sys.platform == "win32":
                process.kill()
            else:
                with suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)
            ended |= {"code": process.wait(), "cpu": float(limits.cpu)}
            texts: dict[str, Any] = {}
            for name, stream in (("stdout", out), ("stderr", err)):
                stream.seek(0)
                texts[name] = _decode(bytearray(stream.read(8 * limits.output)), limits.output)
        path = Path(scratch, ".report")
        report = bytearray(path.read_bytes()[: collect.REPORT_BYTES]) if path.is_file() and not path.is_symlink() else bytearray()
        plots, names = _plain_pictures(scratch)
        fields = _judge(report, ended, token, limits, False)
        return Outcome(**fields, **texts, plots=plots, files=names, seconds=time.perf_counter() - started, level=level)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _plain_pictures(scratch: str) -> tuple[tuple[bytes, ...], tuple[str, ...]]:
    if os.open not in os.supports_dir_fd:  # Windows
        found = [
            collect.png(path.read_bytes()) for path in sorted(Path(scratch, child.FIGURES).glob("*.png"))[: collect.PLOTS] if path.is_file()
        ]
        return tuple(one for one in found if one), tuple(sorted(path.name for path in Path(scratch, "work").iterdir()))[:100]
    handle = os.open(scratch, os.O_RDONLY)
    try:
        return collect.pictures(handle)
    finally:
        os.close(handle)


# --- trying the doors ---

_DOORS = """
import os, socket, json, signal
held = {}
def closed(name, act):
    try:
        held[name] = not act()
    except BaseException as error:
        held[name] = True
def read():
    return bool(open(CANARY + "/secret").read())
def write():
    open(CANARY + "/written", "w").write("x"); return True
def delete():
    os.unlink(CANARY + "/victim"); return True
def change():
    os.chmod(CANARY + "/secret", 0o600); return False
def tcp():
    with socket.create_connection(("127.0.0.1", PORT), 1): return True
def udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one: one.sendto(b"x", ("127.0.0.1", PORT)); return True
def unix():
    with socket.socket(socket.AF_UNIX) as one: return True
def fork():
    child = os.fork()
    if child == 0: os._exit(0)
    os.waitpid(child, 0); return True
def execute():
    import sys
    return os.waitpid(os.posix_spawn(sys.executable, [sys.executable, "-c", ""], {}), 0)[1] == 0
def kill():
    os.kill(VICTIM, signal.SIGTERM); return True
def limits():
    import resource
    now = resource.getrlimit(resource.RLIMIT_NOFILE); resource.setrlimit(resource.RLIMIT_NOFILE, (now[0] - 1, now[1])); return True
def memory():
    held = bytearray(LIMIT + (1 << 28)); return True
def environment():
    return CANARY in "".join(os.environ.values())
for name, act in (("read", read), ("write", write), ("delete", delete), ("change", change), ("network", tcp), ("udp", udp), ("unix", unix),
                  ("fork", fork), ("exec", execute), ("signal", kill), ("limits", limits), ("memory", memory),
                  ("environment", environment)):
    closed(name, act)
print(json.dumps(held))
"""


def _probe(box: Sandbox) -> dict[str, bool]:
    """Try each door from inside and look from outside whether it gave way. A probe that does not come back counts as every door open."""
    limits = Limits(memory=1 << 30)
    doors = ("read", "write", "delete", "change", "network", "udp", "unix", "fork", "exec", "signal", "limits", "memory", "environment")
    victim = subprocess.Popen(
        [sys.executable, "-S", "-I", "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    with tempfile.TemporaryDirectory(prefix="twofold-canary-") as canary, socket.socket() as door:
        os.chmod(canary, 0o777)
        for name in ("secret", "victim"):
            Path(canary, name).write_text("canary")
            Path(canary, name).chmod(0o666)
        door.bind(("127.0.0.1", 0))
        door.listen()
        door.settimeout(0)
        names = f"CANARY, PORT, VICTIM, LIMIT = {canary!r}, {door.getsockname()[1]}, {victim.pid}, {limits.memory}\n"
        outcome = box._run(names + _DOORS, (), (), limits, "", "none")
        try:
            told = json.loads(outcome.stdout) if outcome.ok else {}
        except ValueError:
            told = {}
        held = {name: told.get(name) is True for name in doors}
        held["write"] &= not Path(canary, "written").exists()
        held["delete"] &= Path(canary, "victim").exists()
        held["change"] &= (os.stat(Path(canary, "secret")).st_mode & 0o777 == 0o666) or sys.platform == "win32"
        with suppress(OSError):
            door.accept()[0].close()
            held["network"] = False
        held["signal"] &= victim.poll() is None
    victim.communicate(b"\n")
    return held


_default: Sandbox | None = None
_default_lock = threading.Lock()


def _box() -> Sandbox:
    global _default
    with _default_lock:
        if _default is None:
            _default = Sandbox()
        return _default


def run(
    code: str,
    *,
    frames: Iterable[tuple[str, Any]] = (),
    files: Iterable[str | Path] = (),
    limits: Limits | None = None,
    after: str = "",
) -> Outcome:
    """Sandbox.run in the sandbox that this process keeps warm; the first call starts it, which takes a few seconds."""
    return _box().run(code, frames=frames, files=files, limits=limits, after=after)


def level() -> str:
    """Sandbox.level of the same: "strong", "medium" or "weak". Below strong, ask the user before running anything."""
    return _box().level()


def effects() -> dict[str, bool]:
    """Sandbox.effects of the same: door by door, whether it is closed."""
    return _box().effects()
