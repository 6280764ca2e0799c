"""Hostile programs: (name, family, code). They touch nothing but the folder OUT, which the suite makes, and localhost.

Each finds these names: OUT (a folder outside with secret.txt, a folder sub and a file victim.txt), TCP, UDP (ports that listen on localhost), ABSTRACT (an
abstract Unix socket that listens), VICTIM, PARENT (processes outside), SIBLING (another run's scratch), MARK (a variable of the client's environment),
libc, and escaped(), to be called when something went through. What counts as an escape besides is in suite.py: the secret in anything that comes back,
any change in OUT, a connection, a victim's death, an answer that is too large or too late.
"""
# ruff: noqa: E501, W291  the programs are data, one thought a line

PRELUDE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True); libc.syscall.restype = ctypes.c_long
def escaped(*what): os.write(1, ("ESC" + "APED " + " ".join(map(str, what)) + "\\n").encode())
def allowed(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(one) if isinstance(one, int) else one for one in arguments])
    if result >= 0: escaped("call", number, result)
    return result
"""

ATTACKS: list[tuple[str, str, str]] = []


def _family(name: str, text: str) -> None:
    for part in text.split("\n### ")[1:]:
        title, _, code = part.partition("\n")
        ATTACKS.append((title.strip(), name, code))


_family("secrets", '''
### environment variable
print(os.environ.get(MARK), dict(os.environ))
### environment block in memory
libc.getenv.restype = ctypes.c_char_p
print(libc.getenv(MARK.encode()))
environ = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, "environ")
i = 0
while environ[i]:
    print(environ[i]); i += 1
### proc environ of itself
print(open("/proc/self/environ").read())
### proc environ of the client
print(open(f"/proc/{PARENT}/environ").read())
### proc environ of everyone
import glob
for path in glob.glob("/proc/[0-9]*/environ"):
    try: print(open(path).read())
    except OSError: pass
### proc memory of the client
import re
maps = open(f"/proc/{PARENT}/maps").read()
escaped("maps", len(maps))
### command lines
import glob
for path in glob.glob("/proc/[0-9]*/cmdline"):
    if path.split("/")[2] not in (str(os.getpid()), "self"): escaped(open(path).read()[:50]); break
### plain open
print(open(OUT + "/secret.txt").read())
### os.open and read
print(os.read(os.open(OUT + "/secret.txt", os.O_RDONLY), 1000))
### numpy memmap
import numpy as np
print(bytes(np.memmap(OUT + "/secret.txt", mode="r")))
### pandas read_csv
import pandas as pd
print(pd.read_csv(OUT + "/secret.txt", header=None))
### through a relative path
print(open("../" * 20 + OUT.lstrip("/") + "/secret.txt").read())
### through proc root
print(open(f"/proc/1/root{OUT}/secret.txt").read())
### through proc cwd of the parent
print(os.listdir(f"/proc/{PARENT}/cwd")); escaped()
### openat2 call
how = (ctypes.c_uint64 * 3)(0, 0, 0)
handle = libc.syscall(437, -100, (OUT + "/secret.txt").encode(), how, 24)
if handle >= 0: print(os.read(handle, 100))
### password hashes and keys
for path in ("/etc/shadow", "/etc/passwd", os.path.expanduser("~root/.ssh/id_rsa"), "/root/.bashrc"):
    try: open(path).read(); escaped(path)
    except OSError: pass
### list the folder outside
print(os.listdir(OUT)); escaped()
### inherited descriptors
for number in range(3, 1024):
    try: name = os.fstat(number)
    except OSError: continue
    try: data = os.pread(number, 4096, 0)
    except OSError: data = b""
    print(data)
    try:
        if os.path.samestat(name, os.stat(OUT)): escaped()
        print(os.listdir(number)); escaped("folder", number)
    except OSError: pass
### memory of earlier runs
import gc
print([x for x in gc.get_objects() if isinstance(x, dict) and "planted" in x][:3])
for one in gc.get_objects():
    if isinstance(one, (list, tuple)) and any(isinstance(x, (str, bytes)) and SIBLING_TOKEN[:5] in str(x) and SIBLING_TOKEN[5:] in str(x) for x in one if isinstance(x, (str, bytes)) and len(x) < 5000):
        if one is not globals(): print(one)
### sibling scratch
print(os.listdir(SIBLING)); escaped()
### sibling scratch through tmp
import glob
for path in glob.glob("/tmp/twofold-run-*"):
    if not os.getcwd().startswith(path):
        try: print(os.listdir(path)); escaped()
        except OSError: pass
''')

_family("writes", '''
### create a file
open(OUT + "/new.txt", "w").write("x")
### overwrite a file
open(OUT + "/victim.txt", "w").write("x")
### append to a file
open(OUT + "/victim.txt", "a").write("x")
### delete a file
os.unlink(OUT + "/victim.txt")
### delete a tree
import shutil; shutil.rmtree(OUT)
### rename a file
os.rename(OUT + "/victim.txt", OUT + "/renamed.txt")
### move a file in
open("mine", "w").write("x"); os.rename("mine", OUT + "/mine")
### move a file out
os.rename(OUT + "/victim.txt", "taken"); escaped()
### chmod
os.chmod(OUT + "/victim.txt", 0o777); os.chmod(OUT, 0o700)
### fchmodat2 call
libc.syscall(452, -100, (OUT + "/victim.txt").encode(), 0o700, 0)
### utime
os.utime(OUT + "/victim.txt", (1, 1))
### truncate
os.truncate(OUT + "/victim.txt", 0)
### extended attribute
os.setxattr(OUT + "/victim.txt", "user.x", b"1"); escaped()
### make a folder
os.mkdir(OUT + "/folder")
### pth into site-packages
import sysconfig
for path in (sysconfig.get_paths()["purelib"], *sys.path):
    try:
        name = os.path.join(path, "zz_twofold_escape.pth")
        open(name, "x").write("# harmless\\n"); 
        if path and not os.path.abspath(name).startswith(os.getcwd()): escaped(name); os.unlink(name)
    except OSError: pass
### patch an installed library
import json
handle = os.open(json.__file__, os.O_WRONLY); escaped()
### sibling scratch
open(SIBLING + "/work/planted.txt", "w").write("x"); escaped()
### memmap for writing
import numpy as np
np.memmap(OUT + "/victim.txt", mode="r+")[:] = 0
### a socket file outside
import socket
socket.socket(socket.AF_UNIX).bind(OUT + "/sock")
### through an upper folder
os.chdir(OUT); open("here.txt", "w").write("x")
### home and temp
for path in ("/root/zz_twofold", "/var/tmp/zz_twofold", "/dev/shm/zz_twofold", "/zz_twofold"):
    try: open(path, "x").close(); escaped(path); os.unlink(path)
    except OSError: pass
''')

_family("collector", '''
### symlink in place of a picture
os.symlink(OUT + "/secret.txt", "../.figures/00.png"); escaped("link")
### symlink in place of the folder
os.rmdir("../.figures"); os.symlink(OUT, "../.figures"); escaped("link")
### folder moved away
os.rename("../.figures", "../gone"); open("../.figures", "w").write("x")
### hard link
os.link(OUT + "/secret.txt", "linked.png"); escaped("link")
### hard link in scratch
open("a", "w").write("x"); os.link("a", "../.figures/a.png"); escaped("link")
### fifo
os.mkfifo("../.figures/00.png"); escaped("fifo")
### device
os.mknod("disk", 0o600 | 0o060000, os.makedev(8, 0)); escaped("device")
### picture with enormous sides
import struct, zlib
def chunk(kind, body): return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
open("../.figures/00.png", "wb").write(b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 100000, 100000, 8, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(b"0" * 1000)) + chunk(b"IEND", b""))
### picture that unpacks to more than its header says
import struct, zlib
def chunk(kind, body): return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
open("../.figures/00.png", "wb").write(b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 10, 10, 8, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(bytes(30_000_000))) + chunk(b"IEND", b""))
### picture that is no picture
open("../.figures/00.png", "wb").write(b"<script>alert(1)</script>" * 100)
open("saved.png", "wb").write(b"\\x89PNG\\r\\n\\x1a\\n<script>")
### huge picture file
open("../.figures/00.png", "wb").write(b"\\x89PNG\\r\\n\\x1a\\n" + bytes(20_000_000))
### thousands of pictures
for i in range(3000): open(f"../.figures/{i}.png", "wb").write(b"\\x89PNG")
### names that climb
for name in ("..", "../x", "..\\\\x", "a\\nb", "\\x1b[2Jx", "\\udcff", "-rf", "$(touch x)"):
    try: open("../.figures/" + name + ".png", "wb").write(b"x"); open(name, "w").write("x")
    except OSError: pass
os.makedirs("a/" * 100, exist_ok=True)
### huge repr
class Huge:
    def __repr__(self): return "x" * 300_000_000
Huge()
### endless repr
class Endless:
    def __repr__(self):
        while True: pass
Endless()
### repr that is no string
class Wrong(str):
    def __repr__(self): return Wrong("y" * 1000)
    def __len__(self): return -1
Wrong("x")
### frame that lies
import pandas as pd
class Liar(str):
    def __str__(self): return "z" * 50_000_000
lie = pd.DataFrame({Liar("a"): [Liar("b")] * 100, **{f"c{i}": [1] * 100 for i in range(5000)}})
### exception with hostile text
class Bad(Exception):
    def __str__(self): return "\\x1b]0;pwned\\x07" + "q" * 100_000_000
raise Bad()
### result forgery
import json
for number in range(3, 64):
    try: os.write(number, json.dumps({"ok": True, "result": "ESC" + "APED forged", "error": "", "token": "0" * 32, "frames": []}).encode() + b"\\n")
    except OSError: pass
os._exit(0)
### report of the wrong shape
import gc
for frame in gc.get_objects():
    if isinstance(frame, dict) and "token" in frame and "code" in frame:
        import json
        for number in range(3, 64):
            try: os.write(number, json.dumps({"token": frame["token"], "ok": "yes", "error": 5, "result": ["x"], "frames": [{"name": 1, "shape": "x"}, 7, {"name": "a", "shape": [10**400, -1], "columns": [], "head": []}], "line": 1e308, "level": "strong", "plots": ["x"]}).encode() + b"\\n")
            except OSError: pass
os._exit(0)
### report without an end
for number in range(3, 64):
    try:
        while True: os.write(number, b"[" * 65536)
    except OSError: pass
### deeply nested report
for number in range(3, 64):
    try: os.write(number, b"[" * 200_000 + b"\\n")
    except OSError: pass
os._exit(0)
### pickle bomb on every descriptor
import pickle
class Bomb:
    def __reduce__(self): return os.system, (f"touch {OUT}/pickled",)
for number in range(1, 64):
    try: os.write(number, pickle.dumps(Bomb()) + b"\\n")
    except OSError: pass
os._exit(0)
### pickle bomb as a file
import pickle
class Bomb:
    def __reduce__(self): return os.system, (f"touch {OUT}/pickled",)
for name in ("frame.pkl", "../.figures/00.png", "../.report"):
    with open(name, "wb") as file: pickle.dump(Bomb(), file)
''')

_family("network", '''
### tcp
import socket; socket.create_connection(("127.0.0.1", TCP), 1).send(b"x"); escaped()
### udp
import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", UDP)); escaped()
### urllib
import urllib.request; urllib.request.urlopen(f"http://127.0.0.1:{TCP}/", timeout=1); escaped()
### pandas from a url
import pandas as pd; pd.read_csv(f"http://127.0.0.1:{TCP}/x.csv", storage_options={"timeout": "1"})
### listen
import socket
one = socket.socket(); one.bind(("127.0.0.1", 0)); one.listen(); escaped()
### ipv6
import socket; socket.socket(socket.AF_INET6).connect(("::1", TCP)); escaped()
### abstract unix socket
import socket; socket.socket(socket.AF_UNIX).connect("\\0" + ABSTRACT); escaped()
### raw and netlink sockets
import socket
for family, kind in ((socket.AF_PACKET, socket.SOCK_RAW), (socket.AF_NETLINK, socket.SOCK_RAW), (socket.AF_INET, socket.SOCK_RAW)):
    try: socket.socket(family, kind); escaped(family)
    except OSError: pass
### socket call through libc
allowed(41 if os.uname().machine == "x86_64" else 198, 2, 1, 0)
### name resolution
import socket; print(socket.getaddrinfo("example.com", 80)); escaped()
''')

_family("processes", '''
### os.system
if os.system("true") == 0: escaped()
### subprocess
import subprocess; subprocess.run([sys.executable, "-c", "1"], check=True); escaped()
### subprocess with a shell
import subprocess; print(subprocess.check_output("id", shell=True)); escaped()
### os.fork
if os.fork() == 0: os._exit(0)
escaped()
### os.execv
os.execv(sys.executable, [sys.executable, "-c", "print('ESC' + 'APED')"])
### posix_spawn
os.posix_spawn(sys.executable, [sys.executable, "-c", ""], {}); escaped()
### multiprocessing
import multiprocessing
one = multiprocessing.get_context("fork").Process(target=print); one.start(); escaped()
### ctypes system
if libc.system(b"true") == 0: escaped()
### raw fork call
number = 57 if os.uname().machine == "x86_64" else 220
child = libc.syscall(number, 17, 0, 0, 0, 0)
if child == 0: os._exit(0)
if child > 0: escaped()
### raw clone3 call
words = (ctypes.c_uint64 * 11)(0, 0, 0, 0, 17)
child = libc.syscall(435, words, 88)
if child == 0: os._exit(0)
if child > 0: escaped()
### raw execve call
arguments = (ctypes.c_char_p * 2)(b"/bin/true", None)
allowed(59 if os.uname().machine == "x86_64" else 221, b"/bin/true", arguments, None); 
### subclass walk to a spawner
for one in ().__class__.__base__.__subclasses__():
    if one.__name__ == "Popen": one(["true"]).wait(); escaped()
__builtins__.__import__("subprocess").call(["true"]); escaped()
### own program in scratch
open("run.sh", "w").write("#!/bin/sh\\necho ESC''APED\\n"); os.chmod("run.sh", 0o755)
os.execv("./run.sh", ["run.sh"])
### memfd program
handle = libc.memfd_create(b"x", 0)
if handle >= 0: escaped("memfd", handle)
### shared library of its own
import mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(b"\\xb8\\x39\\x00\\x00\\x00\\x0f\\x05\\xc3" if os.uname().machine == "x86_64" else b"\\xc0\\x03\\x5f\\xd6")  # mov eax, 57 (fork); syscall; ret
child = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
if child == 0: os._exit(0)
if child > 0: escaped()
### setuid
os.setuid(0); os.setgid(0); escaped() if os.getuid() == 0 and open("/etc/shadow") else None
### set capabilities
class Header(ctypes.Structure): _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]
data = (ctypes.c_uint32 * 6)(0xFFFFFFFF, 0xFFFFFFFF, 0, 0xFFFFFFFF, 0xFFFFFFFF, 0)
if libc.capset(ctypes.byref(Header(0x20080522, 0)), data) == 0: escaped()
### kill the parent
parent = os.getppid() or PARENT
os.kill(parent, 9); escaped()
### kill the client
os.kill(PARENT, 15); escaped()
### kill a stranger
os.kill(VICTIM, 9); escaped()
### kill everyone
os.kill(-1, 15)
### kill the group
os.killpg(0, 15); libc.kill(0, 15)
### raw pidfd kill
handle = libc.syscall(434, VICTIM, 0)
if handle >= 0: libc.syscall(424, handle, 9, None, 0); escaped()
### signal through fcntl ownership
import fcntl
reader, writer = os.pipe(); fcntl.fcntl(reader, fcntl.F_SETOWN, VICTIM); fcntl.fcntl(reader, 10, 9); escaped()
### ptrace a stranger
if libc.ptrace(16, VICTIM, 0, 0) == 0: escaped()
### ptrace the parent
if libc.ptrace(16, os.getppid() or PARENT, 0, 0) == 0: escaped()
### read memory of the parent
buffer = ctypes.create_string_buffer(64)
class Vector(ctypes.Structure): _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
if libc.process_vm_readv(os.getppid() or PARENT, ctypes.byref(Vector(ctypes.addressof(buffer), 64)), 1, ctypes.byref(Vector(id(os), 64)), 1, 0) > 0: escaped()
### priority and scheduling
os.setpriority(os.PRIO_PROCESS, VICTIM, 19); escaped()
### leave the session
os.setsid(); escaped()
''')

_family("kernel", '''
### raise limits
import resource
for which in (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE):
    try: resource.setrlimit(which, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)); escaped(which)
    except (OSError, ValueError): pass
### raise limits through prlimit
import resource; resource.prlimit(os.getpid(), resource.RLIMIT_CPU, (3600, 3600)); escaped()
### limits of a stranger
import resource; resource.prlimit(VICTIM, resource.RLIMIT_CPU, (1, 1)); escaped()
### io_uring
parameters = ctypes.create_string_buffer(120); allowed(425, 8, parameters)
### user namespace
if libc.unshare(0x10000000) == 0: escaped()
### all namespaces
if libc.unshare(0x20000 | 0x40000000 | 0x20000000) == 0: escaped()
### chroot
os.mkdir("jail"); os.chroot("jail"); escaped()
### mount
if libc.mount(b"none", b".", b"tmpfs", 0, None) == 0: escaped()
### remount the root
if libc.mount(None, b"/", None, 32 | 4096, None) == 0: escaped()
### unmount the scratch
if libc.umount2(b"/tmp", 2) == 0: escaped()
### bpf
attributes = ctypes.create_string_buffer(b"\\x02\\0\\0\\0\\x04\\0\\0\\0\\x08\\0\\0\\0\\x01\\0\\0\\0" + bytes(56)); allowed(321 if os.uname().machine == "x86_64" else 280, 0, attributes, 72)
### keyctl
allowed(250 if os.uname().machine == "x86_64" else 219, 0, -3, 1)
### userfaultfd
allowed(323 if os.uname().machine == "x86_64" else 282, 1)
### perf_event_open
attributes = ctypes.create_string_buffer(b"\\x01\\0\\0\\0\\x80\\0\\0\\0" + bytes(120)); allowed(298 if os.uname().machine == "x86_64" else 241, attributes, 0, -1, -1, 0)
### personality
allowed(135 if os.uname().machine == "x86_64" else 92, 0x0040000)
### open by handle
handle = ctypes.create_string_buffer(b"\\x80\\0\\0\\0" + bytes(140)); mount = ctypes.c_int(); allowed(303 if os.uname().machine == "x86_64" else 264, -100, b"/", handle, ctypes.byref(mount), 0)
### shared memory of System V
allowed(29 if os.uname().machine == "x86_64" else 194, 0x7470, 4096, 0o1666)
### a second filter
allowed(317 if os.uname().machine == "x86_64" else 277, 1, 0, ctypes.create_string_buffer(b"\\x01" + bytes(7) + b"\\x06\\0\\0\\0\\0\\0\\xff\\x7f"))
### dumpable again
if libc.prctl(4, 1, 0, 0, 0) == 0: escaped()
### other subreaper and securebits
for option in (36, 28, 24, 35):
    if libc.prctl(option, 1, 0, 0, 0) == 0: escaped(option)
### terminal injection
import fcntl
for number in (0, 1, 2):
    try: fcntl.ioctl(number, 0x5412, b"x"); escaped()
    except OSError: pass
### x32 call
if os.uname().machine == "x86_64":
    result = libc.syscall(ctypes.c_long(0x40000000 + 39)); escaped("x32", result) if result > 0 else print("no such call")
### int 0x80 call
import mmap
if os.uname().machine == "x86_64":
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3")  # mov eax, 20 (getpid of i386); int 0x80; ret
    result = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))(); escaped("int80", result) if result > 0 else print("no such call")
''')

_family("resources", '''
### endless loop
while True: pass
### endless sleep
import time; time.sleep(3600)
### SIGTERM and SIGALRM ignored
import signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: pass
### every exception caught
while True:
    try:
        while True: pass
    except BaseException: pass
### regular expression
import re; re.match(r"(a+)+$", "a" * 60 + "b")
### loop in C
sum(range(10**18))
### memory at once
held = bytearray(8 << 30); escaped(len(held))
### memory bit by bit
import mmap
held = []
while sum(map(len, held)) < 8 << 30: held.append(mmap.mmap(-1, 256 << 20))
escaped()
### memory of numpy
import numpy as np; held = np.empty(8 << 30, dtype="u1"); escaped()
### one big file
with open("big", "wb") as file:
    for _ in range(64): file.write(bytes(1 << 20))
escaped()
### sparse file
with open("sparse", "wb") as file: file.truncate(1 << 40)
escaped()
### many files
for i in range(6000): open(f"f{i}", "w").close()
escaped()
### files that fill the disk
for i in range(12):
    with open(f"part{i}", "wb") as file: file.write(bytes(30 << 20))
escaped()
### many descriptors
held = [os.open("/dev/null", os.O_RDONLY) for _ in range(1000)]; escaped()
### stdout flood
while True: sys.stdout.write("x" * 100_000)
### stderr flood
while True: os.write(2, b"y" * 65536)
### flood of lines
while True: print()
### recursion
def deeper(): return deeper()
deeper()
### recursion without a limit
sys.setrecursionlimit(10**9)
class Deep:
    def __repr__(self): return repr(self)
def deeper(n): return [deeper(n + 1)]
deeper(0)
### deep syntax
eval("(" * 100_000 + ")" * 100_000)
### segmentation fault
ctypes.string_at(0)
### abort
os.abort()
### thousands of threads
import threading, time
held = 0
for _ in range(3000):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); held += 1
escaped(held)
### atexit that hangs
import atexit, time
atexit.register(time.sleep, 3600)
### threads that go on
import threading
def spin():
    while True: pass
for _ in range(4): threading.Thread(target=spin).start()
### daemon threads that print
import threading
def shout():
    while True: os.write(1, b"z" * 4096)
for _ in range(2): threading.Thread(target=shout, daemon=True).start()
### exit at once
os._exit(7)
### sys.exit in a thread of output
sys.stdout.close(); sys.stderr.close(); os.close(1); os.close(2); sys.exit(3)
### decompression bomb
import zlib
data = zlib.compress(bytes(100_000_000)); held = [zlib.decompress(data) for _ in range(42)]; escaped()
### pagefault storm
import mmap
page = mmap.mmap(-1, 1 << 30)
while True:
    page[::4096] = b"x" * (1 << 18); page.madvise(4)
### stop itself
import signal; os.kill(os.getpid(), signal.SIGSTOP)
import time; time.sleep(3600)
''')
