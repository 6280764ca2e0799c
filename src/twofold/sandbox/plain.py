"""One run in a plain process of its own, for systems without the zygote: a wall clock, rlimits where there are any, and no walls."""

import json
import os
import sys
from contextlib import suppress

from twofold.sandbox import child


def main() -> None:
    """Request on standard input, report in the file .report of the scratch; what the code prints goes to standard output."""
    settings = json.loads(sys.argv[1])
    header, blobs = child.unpack(sys.stdin.buffer.read())
    scratch = settings["scratch"]
    os.chdir(os.path.join(scratch, "work"))
    if sys.platform != "win32":
        from twofold.sandbox import jail

        with suppress(OSError, ValueError):  # macOS knows no limit of address space
            jail.set_limits(settings["cpu"], settings["memory"], settings["file_size"], settings["files"], None)
    result = child.perform(header, blobs, scratch) | {"token": header["token"]}
    with open(os.path.join(scratch, ".report"), "w") as file:
        file.write(json.dumps(result) + "\n")
    sys.stdout.flush()
    os._exit(0)
