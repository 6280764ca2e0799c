"""What a process does to itself so that hostile code inside it can do no harm: namespaces, dropped rights, rlimits, Landlock, seccomp.

Every layer stands alone: one that the kernel lacks leaves the others in place, and sandbox.level() says what that means in effect. All
of it is Linux; numbers are those of the kernel's uapi headers. Everything goes through ctypes on the C library, and every failure
raises OSError.
"""

import contextlib
import ctypes
import os
import resource
import stat
import struct
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from twofold.sandbox import syscalls

LAYERS = ("namespaces", "user", "rlimits", "landlock", "seccomp")
OUTER_UID = 65533
"""Who a run is outside, when root starts the sandbox: a user that owns nothing."""

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
_LANDLOCK = {"create": 444, "add": 445, "restrict": 446}  # the same on every machine, as are all calls since 424
_MOUNT_SETATTR = 442
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_CAPSET = {"x86_64": 126, "aarch64": 91}

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: int | bytes | None) -> int:
    result = int(getattr(_libc, name)(*(ctypes.c_long(one) if isinstance(one, int) else one for one in arguments)))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def _syscall(number: int, *arguments: int | bytes | None) -> int:
    return _call("syscall", number, *arguments)


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    _call("mount", source.encode(), target.encode(), kind and kind.encode(), flags, data and data.encode())  # type: ignore[arg-type]


# --- namespaces -----------------------------------------------------------------------------------------------------------------------


def enter_namespaces() -> bool:
    """Leave the host's user, pid, mount, network, IPC and UTS namespaces; True when root can give runs a user of their own.

    The pid namespace begins with the next fork. Root maps itself and OUTER_UID, so a run of it is nobody outside; others map only
    themselves.
    """
    uid, gid = os.geteuid(), os.getegid()
    mapper, (reader, writer) = 0, os.pipe()
    if uid == 0:  # two lines in uid_map take a writer who stayed outside
        mapper = os.fork()
        if mapper == 0:
            try:
                os.close(writer)
                if os.read(reader, 1):
                    for name in ("uid_map", "gid_map"):
                        Path(f"/proc/{os.getppid()}/{name}").write_text(f"0 0 1\n{OUTER_UID} {OUTER_UID} 1\n")
                    os._exit(0)
            finally:
                os._exit(1)
    mapped = False
    try:
        _call("unshare", _NEWUSER | _NEWPID | _NEWNS | _NEWNET | _NEWIPC | _NEWUTS)
        if mapper:
            os.write(writer, b"x")
    finally:
        os.close(writer)
        os.close(reader)
        if mapper:
            mapped = os.waitpid(mapper, 0)[1] == 0
    if not mapped:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1\n")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1\n")
    return mapped


SCRATCH = "/scratch"


def new_root(paths: Sequence[str]) -> None:
    """Make a tmpfs the root: these paths (read-only, in their old places), four devices and a small SCRATCH, which /tmp leads to.

    Where Python itself lies in /tmp, that folder holds just what Python needs.
    """
    _mount("none", "/", None, _REC | _PRIVATE)
    base = next(
        one
        for one in ("/mnt", "/media", "/srv", "/opt", "/home", "/tmp")
        if os.path.isdir(one) and not any(_under(path, one) for path in paths)
    )
    handles = {path: os.open(path, os.O_PATH) for path in _outermost(paths)}
    handles |= {path: os.open(path, os.O_PATH) for path in ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")}
    _mount("twofold", base, "tmpfs", _NOSUID | _NODEV, "size=1m,nr_inodes=2048,mode=755")
    for path, handle in handles.items():
        place = Path(base + path)
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        _mount(f"/proc/self/fd/{handle}", str(place), None, _BIND | _REC)
        os.close(handle)
        device = path.startswith("/dev/")
        attributes = struct.pack("=QQQQ", (0 if device else _RDONLY | _NODEV) | _NOSUID, 0, 0, 0)
        _syscall(_MOUNT_SETATTR, -100, str(place).encode(), 0x8000, attributes, len(attributes))  # AT_RECURSIVE
    for path in paths:  # a link in a path, such as /lib -> usr/lib, must be there as well
        with contextlib.suppress(OSError):
            _copy_links(path, base)
    Path(base + SCRATCH).mkdir()
    with contextlib.suppress(FileExistsError):
        os.symlink(SCRATCH, base + "/tmp")
    os.chdir(base)
    _syscall(_PIVOT_ROOT[syscalls.machine()], b".", b".")
    _call("umount2", b".", 2)  # MNT_DETACH: the old root goes
    os.chdir("/")
    _mount("none", "/", None, _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV)
    _mount("warm", SCRATCH, "tmpfs", _NOSUID | _NODEV | _NOEXEC, "size=16m,mode=700")
    os.environ |= {"HOME": SCRATCH, "TMPDIR": SCRATCH}


def _under(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _outermost(paths: Iterable[str]) -> list[str]:
    real = sorted({os.path.realpath(path) for path in paths if os.path.exists(path)})
    return [path for path in real if not any(_under(path, other) for other in real if other != path)]


def _copy_links(path: str, base: str) -> None:
    parts = Path(path).parts
    for count in range(2, len(parts) + 1):
        part = os.path.join(*parts[:count])
        if os.path.islink(part) and not os.path.lexists(base + part):
            os.makedirs(os.path.dirname(base + part), exist_ok=True)
            os.symlink(os.readlink(part), base + part)


def private_scratch(size: int, uid: int) -> int:
    """Mount a tmpfs of so many bytes on SCRATCH, in a mount namespace of its own. Its descriptor; it goes with its last user."""
    _call("unshare", _NEWNS)
    _mount("scratch", SCRATCH, "tmpfs", _NOSUID | _NODEV | _NOEXEC, f"size={size},nr_inodes=4096,mode=700")
    os.chown(SCRATCH, uid, -1)
    return os.open(SCRATCH, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def fork_in_pid_namespace(home: int) -> int:
    """fork(), the child as process 1 of a new pid namespace. home is a descriptor of /proc/self/ns/pid, where this process stays."""
    _call("unshare", _NEWPID)
    child = -1
    try:
        child = os.fork()
    finally:
        if child:  # unshare works only from the namespace that one lives in
            _call("setns", home, _NEWPID)
    return child


# --- rights ---------------------------------------------------------------------------------------------------------------------------


def die_with_parent() -> None:
    """SIGKILL this process when the thread that forked it ends."""
    _call("prctl", 1, 9, 0, 0, 0)


def become(uid: int) -> None:
    """Give up root for good: another user and group, no further groups."""
    with contextlib.suppress(PermissionError):  # refused where setgroups is denied, and then there is nothing to drop
        os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def drop_capabilities() -> None:
    """No capability now, none to be gained."""
    for number in range(64):
        if _libc.prctl(24, ctypes.c_ulong(number), 0, 0, 0) < 0:  # PR_CAPBSET_DROP; past the last one, or not ours to drop
            break
    _libc.prctl(47, ctypes.c_ulong(4), 0, 0, 0)  # PR_CAP_AMBIENT_CLEAR_ALL
    _syscall(_CAPSET[syscalls.machine()], struct.pack("=II", 0x20080522, 0), struct.pack("=6I", 0, 0, 0, 0, 0, 0))


def no_new_privileges() -> None:
    """Set-uid programs raise nobody from here on; Landlock and seccomp ask for it."""
    _call("prctl", 38, 1, 0, 0, 0)
    _call("prctl", 4, 0, 0, 0, 0)  # not dumpable: no core, no ptrace by others of the same user


def set_limits(cpu: int, memory: int, file_size: int, files: int, processes: int | None) -> None:
    """rlimits, soft and hard: seconds of CPU, bytes of address space and of one file, descriptors, threads of the user (None: as it is)."""
    wanted = {resource.RLIMIT_CPU: cpu, resource.RLIMIT_AS: memory, resource.RLIMIT_FSIZE: file_size, resource.RLIMIT_NOFILE: files}
    wanted |= {resource.RLIMIT_CORE: 0}
    if sys.platform == "linux":
        wanted |= {resource.RLIMIT_MSGQUEUE: 0, resource.RLIMIT_MEMLOCK: 1 << 20}
    if processes is not None:
        wanted[resource.RLIMIT_NPROC] = processes
    for which, value in wanted.items():
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))


def close_descriptors(keep: Iterable[int]) -> None:
    """Close all but these."""
    low = 0
    for one in (*sorted(set(keep)), min(1 << 20, resource.getrlimit(resource.RLIMIT_NOFILE)[1]) if sys.platform == "linux" else 256):
        if one > low:  # closerange(0, 0) closes everything
            os.closerange(low, one)
        low = one + 1


# --- Landlock -------------------------------------------------------------------------------------------------------------------------

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG = 1 << 4, 1 << 5, 1 << 7, 1 << 8
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # how many file rights each ABI knows


def landlock_abi() -> int:
    """The kernel's Landlock version; 0 where there is none."""
    try:
        return _syscall(_LANDLOCK["create"], None, 0, 1)
    except OSError:
        return 0


def landlock(read: Iterable[str], write: str) -> None:
    """From here on: read below `read`, read and write below `write` (no symlinks, devices, fifos, exec), no TCP, signals scoped.

    Limits: chmod, utime, stat and UDP are not Landlock's (seccomp and the namespaces refuse them); TCP needs ABI 4, truncate 3, signals
    6.
    """
    abi = landlock_abi()
    known = (1 << _RIGHTS[min(abi, 5)]) - 1
    attributes = struct.pack("=QQQ", known, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    ruleset = _syscall(_LANDLOCK["create"], attributes, 8 if abi < 4 else 16 if abi < 6 else 24, 0)
    try:
        for path in read:
            _allow(ruleset, path, _READ_FILE | _READ_DIR, known)
        for path in ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"):
            _allow(ruleset, path, _READ_FILE | (_WRITE_FILE if path == "/dev/null" else 0), known)
        inside = _READ_FILE | _READ_DIR | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _REFER | _TRUNCATE
        _allow(ruleset, write, inside, known)
        _syscall(_LANDLOCK["restrict"], ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int, known: int) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there needs no permission
    try:
        if not stat.S_ISDIR(os.fstat(handle).st_mode):
            rights &= _READ_FILE | _WRITE_FILE | _TRUNCATE
        _syscall(_LANDLOCK["add"], ruleset, 1, struct.pack("=Qi", rights & known, handle), 0)
    finally:
        os.close(handle)


# --- seccomp --------------------------------------------------------------------------------------------------------------------------


def seccomp_available() -> bool:
    """Whether the kernel takes a filter that can kill a process, and the machine is one that the table knows."""
    number = {"x86_64": 317, "aarch64": 277}.get(syscalls.machine())
    try:
        return number is not None and _syscall(number, 2, 0, struct.pack("=I", 0x80000000)) == 0
    except OSError:
        return False


def seccomp() -> None:
    """Install the filter of syscalls.program for this process and all its threads. no_new_privileges() must have run."""
    code = syscalls.program(os.getpid(), syscalls.machine())
    buffer = ctypes.create_string_buffer(code, len(code))
    filter_ = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    _call("prctl", 22, 2, filter_, 0, 0)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER; the process has one thread here
