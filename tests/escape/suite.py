"""Run the attacks and look from outside whether anything got out.

As a program it prints a JSON line; flags: --off LAYER (repeatable), --threads N, --only TEXT.
"""

import argparse
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from twofold import sandbox

sys.path.append(str(Path(__file__).parent))
from attacks import ATTACKS, PRELUDE

LIMITS = sandbox.Limits(wall=3.0, cpu=1, output=20_000)
LATE = 12.0  # seconds, the wall limit and what two busy cores may add


@dataclass
class World:
    """What lies outside: a folder, listening sockets, a stranger."""

    folder: Path
    secret: str
    tcp: socket.socket
    udp: socket.socket
    abstract: socket.socket
    name: str
    victim: subprocess.Popen[bytes]
    box: sandbox.Sandbox
    sibling: str = "/tmp/twofold-run-sibling"
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    pid: int = 0

    def header(self) -> str:
        names = {
            "OUT": str(self.folder), "TCP": self.tcp.getsockname()[1], "UDP": self.udp.getsockname()[1], "ABSTRACT": self.name,
            "VICTIM": self.victim.pid, "PARENT": os.getpid(), "SIBLING": self.sibling, "SIBLING_TOKEN": self.token,
            "MARK": "TWOFOLD_ESCAPE_MARK",
        }  # fmt: skip
        return PRELUDE + "".join(f"{name} = {value!r}\n" for name, value in names.items())


def snapshot(folder: Path) -> dict[str, tuple[object, ...]]:
    """Everything about a folder that an attack could change."""
    found: dict[str, tuple[object, ...]] = {}
    for path in (folder, *folder.rglob("*")) if folder.exists() else ():
        status = path.lstat()
        data = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (status.st_mode, status.st_uid, status.st_nlink, data, 0 if path == folder else status.st_mtime_ns)
    return found


def build(folder: Path, secret: str) -> None:
    """The folder outside; open to all users, so that only the sandbox protects it."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "sub").mkdir(parents=True)
    for name, text in (("secret.txt", secret), ("victim.txt", "victim")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o666)
    folder.chmod(0o777)


@contextmanager
def world(off: Sequence[str] = ()) -> Iterator[World]:
    """The outside and a sandbox without the layers named in `off`."""
    secret = secrets.token_hex(12)
    os.environ["TWOFOLD_ESCAPE_MARK"] = secret
    name = "twofold-" + secrets.token_hex(6)
    victim = subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE)
    with (
        tempfile.TemporaryDirectory() as top,
        socket.socket() as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        os.chmod(top, 0o755)
        tcp.bind(("127.0.0.1", 0))
        udp.bind(("127.0.0.1", 0))
        unix.bind("\0" + name)
        for one in (tcp, unix):
            one.listen(64)
        for one in (tcp, udp, unix):
            one.settimeout(0)
        with sandbox.Sandbox(off=off) as box:
            box.level()
            here = World(Path(top) / "outside", secret, tcp, udp, unix, name, victim, box, pid=box.pid)
            build(here.folder, secret)
            box.run(f"planted = {{'planted': {here.token!r}, 'secret': {secret!r}}}")
            try:
                yield here
            finally:
                with suppress(OSError):
                    victim.kill()
                victim.communicate()
                del os.environ["TWOFOLD_ESCAPE_MARK"]


def touched(here: World) -> list[str]:
    """Which of the listeners heard something."""
    heard = []
    for name, one in (("tcp", here.tcp), ("abstract", here.abstract)):
        with suppress(OSError):
            one.accept()[0].close()
            heard.append(name)
    with suppress(OSError):
        here.udp.recv(100)
        heard.append("udp")
    return heard


def attack(here: World, code: str) -> str:
    """Run one attack; "" when it was contained, else what got out."""
    before = snapshot(here.folder)
    started = time.monotonic()
    outcome = here.box.run(here.header() + code, limits=LIMITS)
    late = time.monotonic() - started
    texts = (outcome.stdout, outcome.stderr, outcome.result, outcome.error, outcome.after, repr(outcome.frames), repr(outcome.files))
    said = outcome.stdout + outcome.result
    if here.secret in "".join(texts) or any(here.secret.encode() in plot for plot in outcome.plots):
        return "the secret came out"
    if "ESCAPED" in said:
        return said[said.index("ESCAPED") :].splitlines()[0][:80]
    if snapshot(here.folder) != before:
        build(here.folder, here.secret)
        return "the folder outside changed"
    if heard := touched(here):
        return f"heard on {heard}"
    if here.victim.poll() is not None:
        return "the stranger died"
    if late > LATE:
        return f"it took {late:.0f} s"
    if max(map(len, texts)) > 2_000_000 or len(outcome.plots) > 12 or any(not plot.startswith(b"\x89PNG") for plot in outcome.plots):
        return "too much came back"
    if here.box.pid != here.pid:
        here.pid = here.box.pid
        return "the zygote died"
    return ""


def run(off: Sequence[str] = (), threads: int = 1, only: str = "") -> dict[str, str]:
    """All attacks, in so many threads with a world for each: name -> "" or what got out."""
    chosen = [one for one in ATTACKS if only in f"{one[1]}/{one[0]}"]
    todo = iter(chosen)
    lock = threading.Lock()
    results: dict[str, str] = {}

    def work(here: World) -> None:
        while True:
            with lock:
                one = next(todo, None)
            if one is None:
                return
            found = attack(here, one[2])
            if here.victim.poll() is not None:
                here.victim = subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE)
            results[f"{one[1]}/{one[0]}"] = found

    assert "seccomp" not in off or len(off) == 1, "without seccomp and another layer, some attacks would do real harm"
    with world(off) as first, ThreadPoolExecutor(threads) as pool:
        if "seccomp" in off and "namespaces" not in first.box.about["layers"]:
            chosen = [one for one in chosen if "kill" not in one[2]]
            todo = iter(chosen)
        worlds = [first]
        for number in range(1, threads):  # the sandbox and listeners are shared, the folder and the stranger are not
            victim = subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE)
            more = World(
                first.folder.parent / f"outside{number}",
                first.secret,
                first.tcp,
                first.udp,
                first.abstract,
                first.name,
                victim,
                first.box,
                pid=first.pid,
            )
            build(more.folder, first.secret)
            worlds.append(more)
        try:
            list(pool.map(work, worlds))
        finally:
            for here in worlds[1:]:
                with suppress(OSError):
                    here.victim.kill()
                here.victim.communicate()
    return {f"{family}/{name}": results[f"{family}/{name}"] for name, family, _ in chosen}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--off", action="append", default=[])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    started = time.monotonic()
    results = run(arguments.off, arguments.threads, arguments.only)
    with sandbox.Sandbox(off=arguments.off) as box:
        level, layers = box.level(), box.about["layers"]
    escaped = {name: what for name, what in results.items() if what}
    told = {"uid": os.geteuid(), "level": level, "layers": layers, "attacks": len(results), "contained": len(results) - len(escaped)}
    print(json.dumps(told | {"escaped": escaped, "seconds": round(time.monotonic() - started, 1)}))


if __name__ == "__main__":
    main()
