import errno
import json
import os
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

from twofold import sandbox
from twofold.sandbox import child, collect, jail, syscalls
from twofold.types import Run, TwofoldError

ESCAPE = Path(__file__).parent / "escape"
sys.path.append(str(ESCAPE))
import honest  # noqa: E402  it lies beside the attacks
import suite  # noqa: E402

linux = pytest.mark.skipif(sys.platform != "linux" or not syscalls.machine(), reason="the zygote is for Linux on x86-64 and aarch64")
locked = pytest.mark.skipif(
    sys.platform != "linux" or not (jail.landlock_abi() and jail.seccomp_available()), reason="needs Landlock and seccomp"
)


@pytest.fixture(scope="module")
def box() -> Iterator[sandbox.Sandbox]:
    with sandbox.Sandbox() as one:
        one.start()
        yield one


FRAME = pd.DataFrame(
    {
        "city": ["Oslo", "Paris", "Oslo"],
        "price": [1.5, None, 3.0],
        "day": pd.date_range("2024-01-01", periods=3),
        "kind": pd.Categorical(["a", "b", "a"]),
    }
)


def test_a_cell_gives_what_a_notebook_shows(box: sandbox.Sandbox) -> None:
    code = "import sys\nprint('out')\nprint('err', file=sys.stderr)\nmeans = df.groupby('city', as_index=False)['price'].mean()\nmeans"
    run = box.run(code, frames=[("df", FRAME)])
    assert isinstance(run, Run)
    assert (run.ok, run.stdout, run.stderr, run.error, run.line, run.stopped) == (True, "out\n", "err\n", "", 0, "")
    assert run.result == repr(FRAME.groupby("city", as_index=False)["price"].mean())
    assert run.frames == (sandbox.Table("means", (2, 2), ("city", "price"), (("0", "Oslo", "2.25"), ("1", "Paris", "nan"))),)
    assert run.seconds > 0
    assert run.level == box.level()
    assert box.run("5;").result == ""
    assert box.run("x = 5").result == ""


def test_frames_arrive_as_they_are(box: sandbox.Sandbox) -> None:
    odd = pd.DataFrame({"mixed": [1, "a", None], "list": [[1], [2], [3]]}, index=pd.Index([5, 6, 7], name="key"))
    run = box.run("print(df.dtypes.to_dict()); print(odd.index.name, len(odd))", frames=[("df", FRAME), ("odd", odd)])
    assert run.stdout == f"{FRAME.dtypes.to_dict()}\nkey 3\n", run.error
    with pytest.raises(TwofoldError, match="frames"):
        box.run("1", frames=[("df", 5)])


def test_files_are_copied_in_and_told(box: sandbox.Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "given.csv"
    path.write_text("a,b\n1,2\n")
    code = "import pandas as pd\nd = pd.read_csv('given.csv')\nopen('given.csv', 'w').write('gone')\nd.to_csv('made.csv')\nd"
    run = box.run(code, files=[path])
    assert run.ok, run.error
    assert run.files == ("given.csv", "made.csv")
    assert path.read_text() == "a,b\n1,2\n"
    assert box.run("import os\nos.listdir()").result == "[]"
    with pytest.raises(TwofoldError, match="cannot be read"):
        box.run("1", files=[tmp_path / "missing.csv"])


def test_figures_come_as_png(box: sandbox.Sandbox) -> None:
    code = "import matplotlib.pyplot as plt\nfor size in ((4, 3), (4, 3), (200, 1)):\n    plt.figure(figsize=size)\n    plt.plot([1, 2])\n"
    run = box.run(code + "plt.show()")
    assert run.ok, run.error
    assert run.stderr == ""
    assert [struct.unpack(">II", plot[16:24]) for plot in run.plots] == [(400, 300), (400, 300), (2400, 12)]
    saved = box.run("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.savefig('a.png')\nplt.close()")
    assert len(saved.plots) == 1


def test_an_error_is_told_by_the_users_lines(box: sandbox.Sandbox) -> None:
    run = box.run("import pandas as pd\ndef f(d):\n    return d['prize']\nf(df)", frames=[("df", FRAME)])
    assert (run.ok, run.line) == (False, 3)
    assert run.error.splitlines() == [
        "Traceback (most recent call last):",
        '  File "<cell>", line 4, in <module>',
        "    f(df)",
        '  File "<cell>", line 3, in f',
        "    return d['prize']",
        *[line for line in run.error.splitlines()[5:-1] if set(line.strip()) <= {"~", "^"}],
        "KeyError: 'prize'",
    ]
    run = box.run("x = 1\nif x\n")
    assert (run.ok, run.line, run.error.splitlines()[-1]) == (False, 2, "SyntaxError: expected ':'")
    assert box.run("import sys\nsys.exit(0)").ok
    assert box.run("raise SystemExit('no')").error == "SystemExit: no"


def test_after_looks_at_what_the_code_left(box: sandbox.Sandbox) -> None:
    run = box.run("x = 5\nx + 1", after="print(x, _last)\nassert x == 6, 'x is not 6'")
    assert (run.ok, run.result, run.after) == (True, "6", "5 6\n")
    assert run.after_error.endswith("AssertionError: x is not 6")
    assert box.run("1/0", after="print(1)").after == ""


@linux
def test_limits_hold_and_say_which(box: sandbox.Sandbox) -> None:
    few = sandbox.Limits(wall=1.0, cpu=5, output=1000)
    assert box.run("while True: pass", limits=few).stopped == "wall"
    assert box.run("while True: pass", limits=sandbox.Limits(cpu=1)).stopped == "cpu"
    assert box.run("while True: print('x' * 1000)", limits=sandbox.Limits(output=1000)).stopped == "output"
    assert box.run("import ctypes\nctypes.string_at(0)").stopped == "SIGSEGV"
    assert box.run("x = bytearray(4 << 30)").error.endswith("MemoryError")
    assert "ended Python" in box.run("import os\nos._exit(0)").error
    assert len(box.run("print('x' * 5000)", limits=few).stdout) < 1200


def test_text_steers_no_terminal(box: sandbox.Sandbox) -> None:
    assert box.run("print('a\\tb\\x1b]0;title\\x07\\ud800')").stdout == "a\tb\ufffd]0;title\ufffd\\ud800\n"


def test_the_same_random_program_differs_unless_it_seeds(box: sandbox.Sandbox) -> None:
    code = "import random, numpy as np\n{}\nrandom.random(), np.random.rand(), float(np.random.default_rng({}).random())"
    free = {part for _ in range(3) for part in box.run(code.format("", "")).result.strip("()").split(",")}
    assert len(free) == 9
    names = {box.run("import tempfile, uuid\ntempfile.mktemp(), uuid.uuid4()").result for _ in range(3)}
    assert len(names) == 3
    assert len({box.run(code.format("random.seed(1); np.random.seed(1)", 1)).result for _ in range(3)}) == 1


@linux
def test_a_run_that_cannot_be_locked_up_does_not_run(box: sandbox.Sandbox) -> None:
    if "namespaces" in box.about["layers"]:
        run = box.run("print('ran')", limits=sandbox.Limits(scratch=-1))
        assert (run.ok, run.stdout) == (False, "")
        assert "could not lock the run up" in run.error


@linux
def test_a_file_too_large_for_the_scratch_is_an_error_like_any_other(box: sandbox.Sandbox, tmp_path: Path) -> None:
    (tmp_path / "large.bin").write_bytes(bytes(2 << 20))
    run = box.run("1", files=[tmp_path / "large.bin"], limits=sandbox.Limits(file_size=1 << 20))
    assert (run.ok, run.error) == (False, "the given data cannot be used here: OSError: [Errno 27] File too large")


@linux
def test_nothing_of_one_run_is_seen_by_the_next(box: sandbox.Sandbox) -> None:
    box.run("import builtins, json, numpy\nbuiltins.leak = numpy.leak = 1\nopen('leak', 'w').write('x')")
    assert (
        box.run("import builtins, numpy, os\nhasattr(builtins, 'leak'), hasattr(numpy, 'leak'), os.listdir()").result
        == "(False, False, [])"
    )


def _family(top: int) -> list[int]:
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it ended meanwhile
    found = [top]
    for one in found:
        found += [pid for pid, parent in parents.items() if parent == one]
    return found


@linux
def test_two_hundred_runs_in_eight_threads_leave_nothing_behind(box: sandbox.Sandbox) -> None:
    def state() -> tuple[int, int, int]:
        return len(_family(box.pid)), len(os.listdir("/proc/self/fd")), len(list(Path("/tmp").glob("twofold-run-*")))

    box.run("1")
    time.sleep(0.5)
    before, pid = state(), box.pid
    with ThreadPoolExecutor(8) as pool:
        code = "import time\nopen('f', 'w').write('x' * 1000)\nprint({0})\n{0} * 2 if {0} % 5 else 1 / 0"
        runs = list(pool.map(lambda i: box.run(code.format(i)), range(200)))
    assert [run.stdout for run in runs] == [f"{i}\n" for i in range(200)]
    assert [run.result for run in runs] == [str(2 * i) if i % 5 else "" for i in range(200)]
    deadline = time.monotonic() + 10
    time.sleep(0.5)  # as above: while the last run ends and the next one is made ready, the numbers go up and down
    while (after := state()) != before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert (after, box.pid) == (before, pid)


@linux
def test_a_dead_zygote_is_replaced() -> None:
    with sandbox.Sandbox() as one:
        assert one.run("1").ok
        first = one.pid
        os.kill(first, 9)
        while one.pid == first:
            time.sleep(0.01)
        assert one.run("2").result == "2"
        assert one.pid not in (0, first)
        family = _family(one.pid)
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in family) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in family)


@locked
@pytest.mark.parametrize("off", ["namespaces", "user", "rlimits", "landlock", "seccomp"])
def test_the_level_tells_what_holds_without_a_layer(off: str) -> None:
    with sandbox.Sandbox(off=[off]) as one:
        held = one.effects()
        others = "namespaces" in one.about["layers"] or off == "namespaces"
        assert off not in one.about["layers"]
        if off == "rlimits":
            assert (held["memory"], one.level()) == (False, "weak")
        elif off == "seccomp" and others:
            assert (held["fork"], one.level()) == (False, "medium")
        elif others:
            assert one.level() == "strong", held


def test_elsewhere_a_plain_process_is_called_weak(tmp_path: Path) -> None:
    path = tmp_path / "given.csv"
    path.write_text("a\n1\n")
    with sandbox.Sandbox(plain=True) as one:
        assert one.level() == "weak"
        run = one.run("import os\nprint(os.listdir())\nimport matplotlib.pyplot as plt\nplt.plot([1])\n1 + 1", files=[path])
        assert (run.ok, run.result, run.stdout, run.level, len(run.plots)) == (True, "2", "['given.csv']\n", "weak", 1)
        assert one.run("while True: pass", limits=sandbox.Limits(wall=1)).stopped == "wall"


@locked
def test_this_machine_is_strong(box: sandbox.Sandbox) -> None:
    assert (box.level(), all(box.effects().values())) == ("strong", True)


UNLIMITED = {"resources/files that fill the disk", "resources/many files"}  # where no mount namespace, and so no tmpfs, is to be had


@locked
@pytest.mark.slow
def test_every_attack_is_contained(box: sandbox.Sandbox) -> None:
    results = suite.run(threads=4)
    assert len(results) >= 82
    known = set() if "namespaces" in box.about["layers"] else UNLIMITED
    assert {name: what for name, what in results.items() if what and name not in known} == {}


@locked
@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="the test above ran as an ordinary user already")
def test_every_attack_is_contained_for_an_ordinary_user() -> None:
    run = subprocess.run([sys.executable, ESCAPE / "ordinary.py", "--threads", "4"], stdout=subprocess.PIPE, timeout=300, check=True)
    told = json.loads(run.stdout)
    known = set() if "namespaces" in told["layers"] else UNLIMITED
    assert (told["uid"] != 0, told["level"], set(told["escaped"]) - known) == (True, "strong", set())
    assert told["attacks"] >= 82


@linux
@pytest.mark.slow
def test_honest_cells_give_what_they_give_outside(box: sandbox.Sandbox, tmp_path: Path) -> None:
    environment = {"MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HOME": str(tmp_path)}
    plain = subprocess.run(
        [sys.executable, ESCAPE / "honest.py"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=200
    )
    expected = json.loads(plain.stdout)
    assert len(expected) == len(honest.CELLS) >= 60
    path = tmp_path / "sales.csv"
    path.write_text(honest.SALES)
    frames = list(honest.frames().items())
    for cell, (stdout, result) in zip(honest.CELLS, expected, strict=True):
        run = box.run(cell, frames=frames, files=[path])
        assert (run.ok, run.stdout, run.result) == (True, stdout, result), f"{cell}\n{run.error}"


# --- the parts ---


def verdict(arch: str, number: int, *arguments: int, audit: int = 0, pid: int = 1) -> int:
    """What the filter answers, by a small BPF machine."""
    code = syscalls.program(pid, arch)
    steps = [struct.unpack_from("=HBBI", code, place) for place in range(0, len(code), 8)]
    call = struct.pack(
        "=iIQ6Q", number, audit or {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[arch], 0, *(*arguments, *[0] * (6 - len(arguments)))
    )
    place, value = 0, 0
    while True:
        kind, yes, no, constant = steps[place]
        place += 1
        if kind == 0x20:
            (value,) = struct.unpack_from("=I", call, constant)
        elif kind == 0x54:
            value &= constant
        elif kind == 0x06:
            return constant
        else:
            place += yes if {0x15: value == constant, 0x25: value > constant, 0x35: value >= constant}[kind] else no


ALLOW, KILL = 0x7FFF0000, 0x80000000


def refuse(number: int) -> int:
    return 0x50000 | number


@pytest.mark.parametrize(("arch", "column"), [("x86_64", 0), ("aarch64", 1)])
def test_the_filter_answers_each_call_as_its_table_says(arch: str, column: int) -> None:
    tables = [syscalls.ALLOWED, syscalls.REFUSED, syscalls.PRETENDED, syscalls.UNSUPPORTED]
    known = set()
    for table, answer in zip(tables, (ALLOW, refuse(errno.EPERM), refuse(0), refuse(errno.EOPNOTSUPP)), strict=True):
        for name, numbers in table.items():
            if numbers[column] >= 0:
                assert verdict(arch, numbers[column]) == answer, name
                assert numbers[column] not in known, name
                known.add(numbers[column])
    for name in ("read", "write", "openat", "close", "mmap", "munmap", "brk", "futex", "lseek", "fstat", "exit_group"):
        assert syscalls.ALLOWED[name][column] >= 0, f"{name}: no Python runs without it"
    assert all(numbers[column] >= 0 for numbers in syscalls.JUDGED.values())
    known |= {numbers[column] for numbers in syscalls.JUDGED.values()}
    assert all(verdict(arch, number) == refuse(errno.ENOSYS) for number in range(700) if number not in known)
    assert verdict(arch, 0, audit=0x40000003) == KILL
    call = {name: numbers[column] for name, numbers in syscalls.JUDGED.items()}
    assert verdict(arch, call["clone"], 0x3D0F00) == ALLOW  # as pthread_create does
    for flags in (17, 0x4111, 0x10000 | 0x20000, 0x10000 | 0x10000000):  # fork, vfork, a thread in new namespaces
        assert verdict(arch, call["clone"], flags) == refuse(errno.EPERM)
    for name in ("kill", "tgkill"):
        assert [verdict(arch, call[name], target, 9, pid=7) for target in (7, 1, 0, 0xFFFFFFFF)] == [ALLOW, *[refuse(errno.EPERM)] * 3]
    assert verdict(arch, call["prlimit64"], 0, 7, 0) == ALLOW
    for arguments in ((0, 7, 1), (0, 7, 1 << 32), (2, 7, 0)):
        assert verdict(arch, call["prlimit64"], *arguments) == refuse(errno.EPERM)
    assert [verdict(arch, call["prctl"], one) for one in (15, 4, 38)] == [ALLOW, refuse(errno.EPERM), refuse(errno.EPERM)]
    assert [verdict(arch, call["ioctl"], 1, one) for one in (0x5401, 0x5412)] == [ALLOW, refuse(errno.ENOTTY)]
    assert [verdict(arch, call["fcntl"], 1, one) for one in (2, 8)] == [ALLOW, refuse(errno.EPERM)]


def test_x32_calls_are_killed() -> None:
    assert verdict("x86_64", 0x40000000) == verdict("x86_64", 0x40000000 + 39) == KILL


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def picture(width: int = 2, height: int = 2, pixels: bytes = bytes(14), extra: bytes = b"") -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def test_only_whole_pictures_of_bearable_size_are_taken() -> None:
    assert collect.png(picture()) == picture()
    assert collect.png(picture(extra=chunk(b"tEXt", b"a\0<script>"))) == picture()
    assert collect.png(picture() + b"trailing") == picture()
    for bad in (
        b"",
        b"GIF89a",
        picture()[:-5],
        picture(width=100_000),
        picture(0),
        picture(pixels=bytes(15)),
        picture(pixels=b""),
        picture()[:40] + b"x" + picture()[41:],
    ):
        assert collect.png(bad) is None


def test_a_report_is_believed_only_in_its_form_and_with_its_token() -> None:
    good = {"token": "t", "ok": True, "error": "", "result": "r", "line": 0, "after": "", "after_error": "", "frames": []}
    assert collect.report(json.dumps(good).encode(), "t") == {name: value for name, value in good.items() if name != "token"} | {
        "frames": ()
    }
    assert collect.report(json.dumps(good).encode(), "other") is None
    for bad in (b"", b"[1]", b"{", b"\xff", b"[" * 100_000, b"null"):
        assert collect.report(bad, "t") is None
    forged = good | {
        "ok": 1,
        "error": 5,
        "result": "x" * 10**6,
        "line": -4,
        "frames": [{"name": []}, 5, {"name": "a", "shape": [1, 2], "columns": [3], "head": [["\ud800"]]}],
    }
    told = collect.report(json.dumps(forged).encode(), "t")
    assert told is not None
    assert (told["ok"], told["error"], told["line"], len(told["result"]) < 25_000) == (False, "", 0, True)
    assert told["frames"] == (collect.Table("a", (1, 2), ("",), (("?",),)),)


def test_requests_survive_packing() -> None:
    header = {"code": "1\n2", "frames": [["a", "arrow", 3]], "files": [["b\n", 2]]}
    assert child.unpack(child.pack(header, [b"\n{x", b"yz"])) == (header, [b"\n{x", b"yz"])


def test_the_environment_of_a_run_holds_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWOFOLD_TOKEN", "secret")
    with sandbox.Sandbox() as one:
        assert "secret" not in one.run("import os\ndict(os.environ)").result
