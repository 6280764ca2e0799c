"""Run suite.py, started by root, as a user who is nobody special; arguments are passed on. Needs a Python that others can read, or
makes one so.

Where the interpreter lies below a folder closed to others, such as /root, that folder is covered by an empty one with only the
interpreter in it. This is done in a mount namespace of this process's own: nothing outside changes.
"""

import ctypes
import os
import sys
from pathlib import Path

UID = 23456


def main() -> None:
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
        if libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()):
            raise OSError(ctypes.get_errno(), f"mount {target}")

    if libc.unshare(0x20000):
        raise OSError(ctypes.get_errno(), "unshare")
    mount("none", "/", "none", 0x44000)  # private, recursively
    for needed in {os.path.realpath(path) for path in (sys.base_prefix, sys.prefix, str(Path(__file__).parents[2]))}:
        closed = next((part for part in reversed(Path(needed).parents) if not part.stat().st_mode & 1), None)
        if closed is not None:
            handle = os.open(needed, os.O_PATH)
            mount("cover", str(closed), "tmpfs", 0, "mode=755")
            Path(needed).mkdir(parents=True)
            mount(f"/proc/self/fd/{handle}", needed, "", 0x5000)  # bind, recursively
    os.setgroups([])
    os.setresgid(UID, UID, UID)
    os.setresuid(UID, UID, UID)
    libc.prctl(4, 1, 0, 0, 0)  # dumpable again, so that /proc/self is its own
    os.environ.update(HOME="/nonexistent", MPLCONFIGDIR="/tmp/none", PYTHONDONTWRITEBYTECODE="1")
    os.execv(sys.executable, [sys.executable, str(Path(__file__).with_name("suite.py")), *sys.argv[1:]])


main()
