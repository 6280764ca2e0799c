"""Which system calls a run may make: a table for x86-64 and aarch64, and the seccomp-BPF program made from it.

The form of a program is seccomp(2) and linux/filter.h; numbers are those of asm/unistd_64.h and asm-generic/unistd.h (-1: the machine
lacks the call). The list is an allow-list: a call in no table is answered ENOSYS, so that libraries fall back as on an older kernel.
Limits: BPF sees numbers, not what a pointer points at, so paths are the business of Landlock and the mount namespace.
"""

import errno
import platform
import struct
from collections.abc import Iterable
from functools import cache

ALLOWED: dict[str, tuple[int, int]] = {  # no harm in any argument: what they may reach is the business of the other layers
    "read": (0, 63),
    "write": (1, 64),
    "open": (2, -1),
    "close": (3, 57),
    "stat": (4, -1),
    "fstat": (5, 80),
    "lstat": (6, -1),
    "poll": (7, -1),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "readv": (19, 65),
    "writev": (20, 66),
    "preadv": (295, 69),
    "pwritev": (296, 70),
    "preadv2": (327, 286),
    "pwritev2": (328, 287),
    "access": (21, -1),
    "pipe": (22, -1),
    "pipe2": (293, 59),
    "select": (23, -1),
    "pselect6": (270, 72),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "msync": (26, 227),
    "mincore": (27, 232),
    "madvise": (28, 233),
    "dup": (32, 23),
    "dup2": (33, -1),
    "dup3": (292, 24),
    "pause": (34, -1),
    "nanosleep": (35, 101),
    "getitimer": (36, 102),
    "setitimer": (38, 103),
    "alarm": (37, -1),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "wait4": (61, 260),
    "waitid": (247, 95),
    "uname": (63, 160),
    "flock": (73, 32),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    "sync_file_range": (277, 84),
    "truncate": (76, 45),
    "ftruncate": (77, 46),
    "getdents": (78, -1),
    "getdents64": (217, 61),
    "getcwd": (79, 17),
    "chdir": (80, 49),
    "fchdir": (81, 50),
    "rename": (82, -1),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "mkdir": (83, -1),
    "mkdirat": (258, 34),
    "rmdir": (84, -1),
    "creat": (85, -1),
    "unlink": (87, -1),
    "unlinkat": (263, 35),
    "readlink": (89, -1),
    "readlinkat": (267, 78),
    "umask": (95, 166),
    "gettimeofday": (96, 169),
    "getrlimit": (97, 163),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "times": (100, 153),
    "getuid": (102, 174),
    "getgid": (104, 176),
    "geteuid": (107, 175),
    "getegid": (108, 177),
    "getppid": (110, 173),
    "getpgrp": (111, -1),
    "getpgid": (121, 155),
    "getsid": (124, 156),
    "getgroups": (115, 158),
    "getresuid": (118, 148),
    "getresgid": (120, 150),
    "capget": (125, 90),
    "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137),
    "rt_sigsuspend": (130, 133),
    "sigaltstack": (131, 132),
    "statfs": (137, 43),
    "fstatfs": (138, 44),
    "getpriority": (140, 141),
    "sched_getparam": (143, 121),
    "sched_getscheduler": (145, 120),
    "sched_get_priority_max": (146, 125),
    "sched_get_priority_min": (147, 126),
    "sched_rr_get_interval": (148, 127),
    "mlock": (149, 228),
    "munlock": (150, 229),
    "arch_prctl": (158, -1),
    "time": (201, -1),
    "futex": (202, 98),
    "futex_waitv": (449, 449),
    "sched_getaffinity": (204, 123),
    "epoll_create": (213, -1),
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_wait": (232, -1),
    "epoll_pwait": (281, 22),
    "epoll_pwait2": (441, 441),
    "set_tid_address": (218, 96),
    "restart_syscall": (219, 128),
    "fadvise64": (221, 223),
    "timer_create": (222, 107),
    "timer_settime": (223, 110),
    "timer_gettime": (224, 108),
    "timer_getoverrun": (225, 109),
    "timer_delete": (226, 111),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "openat": (257, 56),
    "newfstatat": (262, 79),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "ppoll": (271, 73),
    "set_robust_list": (273, 99),
    "get_robust_list": (274, 100),
    "splice": (275, 76),
    "tee": (276, 77),
    "fallocate": (285, 47),
    "timerfd_create": (283, 85),
    "timerfd_settime": (286, 86),
    "timerfd_gettime": (287, 87),
    "eventfd": (284, -1),
    "eventfd2": (290, 19),
    "getcpu": (309, 168),
    "getrandom": (318, 278),
    "membarrier": (324, 283),
    "copy_file_range": (326, 285),
    "sendfile": (40, 71),
    "statx": (332, 291),
    "rseq": (334, 293),
    "close_range": (436, 436),
    "pkey_mprotect": (329, 288),
    "pkey_alloc": (330, 289),
    "pkey_free": (331, 290),
    "get_mempolicy": (239, 236),
}
REFUSED: dict[str, tuple[int, int]] = {  # answered EPERM: programs know that answer from every container
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, -1),
    "vfork": (58, -1),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "accept": (43, 202),
    "accept4": (288, 242),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "sendmsg": (46, 211),
    "recvmsg": (47, 212),
    "sendmmsg": (307, 269),
    "recvmmsg": (299, 243),
    "shutdown": (48, 210),
    "bind": (49, 200),
    "listen": (50, 201),
    "getsockname": (51, 204),
    "getpeername": (52, 205),
    "setsockopt": (54, 208),
    "getsockopt": (55, 209),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_setup": (206, 0),
    "io_submit": (209, 2),
    "io_destroy": (207, 1),
    "io_cancel": (210, 3),
    "io_getevents": (208, 4),
    "bpf": (321, 280),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "setrlimit": (160, 164),
    "setuid": (105, 146),
    "setgid": (106, 144),
    "setreuid": (113, 145),
    "setregid": (114, 143),
    "setresuid": (117, 147),
    "setresgid": (119, 149),
    "setgroups": (116, 159),
    "setfsuid": (122, 151),
    "setfsgid": (123, 152),
    "capset": (126, 91),
    "personality": (135, 92),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "link": (86, -1),
    "linkat": (265, 37),
    "symlink": (88, -1),
    "symlinkat": (266, 36),
    "mknod": (133, -1),
    "mknodat": (259, 33),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmdt": (67, 197),
    "shmctl": (31, 195),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "mq_timedsend": (242, 182),
    "mq_timedreceive": (243, 183),
    "mq_notify": (244, 184),
    "mq_getsetattr": (245, 185),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "iopl": (172, -1),
    "ioperm": (173, -1),
    "modify_ldt": (154, -1),
    "vhangup": (153, 58),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "setpriority": (141, 140),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "sched_setaffinity": (203, 122),
    "ioprio_set": (251, 30),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "inotify_init": (253, -1),
    "inotify_init1": (294, 26),
    "inotify_add_watch": (254, 27),
    "inotify_rm_watch": (255, 28),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "seccomp": (317, 277),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "vmsplice": (278, 75),
    "signalfd": (282, -1),
    "signalfd4": (289, 74),
    "lookup_dcookie": (212, 18),
    "sync": (162, 81),
    "syncfs": (306, 267),
}
PRETENDED: dict[str, tuple[int, int]] = {  # answered 0 and not done: shutil.copy and zipfile call them, and nothing here depends on them
    "chmod": (90, -1),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "utime": (132, -1),
    "utimes": (235, -1),
    "utimensat": (280, 88),
    "futimesat": (261, -1),
    "chown": (92, -1),
    "fchown": (93, 55),
    "lchown": (94, -1),
    "fchownat": (260, 54),
}
UNSUPPORTED: dict[str, tuple[int, int]] = {  # answered EOPNOTSUPP, as on a file system without extended attributes
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "getxattr": (191, 8),
    "lgetxattr": (192, 9),
    "fgetxattr": (193, 10),
    "listxattr": (194, 11),
    "llistxattr": (195, 12),
    "flistxattr": (196, 13),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
}
JUDGED: dict[str, tuple[int, int]] = {  # decided by their arguments, below
    "clone": (56, 220),
    "kill": (62, 129),
    "tgkill": (234, 131),
    "prlimit64": (302, 261),
    "prctl": (157, 167),
    "ioctl": (16, 29),
    "fcntl": (72, 25),
}
_ARCHES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of the tables, AUDIT_ARCH_*
_KILL, _ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000  # SECCOMP_RET_KILL_PROCESS, _ALLOW, _ERRNO
_LOAD, _EQUAL, _ABOVE, _NOT_BELOW, _AND, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x54, 0x06  # BPF_LD|W|ABS, JEQ, JGT, JGE, ALU|AND, RET
_X32 = 0x40000000  # x32 calls share the arch value of x86-64 and differ by this bit

_PRCTL = (3, 15, 16, 21, 23, 39, 0x53564D41)  # GET_DUMPABLE, SET_NAME, GET_NAME, GET_SECCOMP, CAPBSET_READ, GET_NO_NEW_PRIVS, SET_VMA
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
_FCNTL = (8, 10, 15, 1024, 1026)  # refused: F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETLEASE, F_NOTIFY: these make others signal
_CLONE_THREAD, _CLONE_NEW = 0x10000, 0x7E020000  # new namespaces: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET


def _step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


def _refuse(number: int) -> bytes:
    return _step(_RETURN, _ERRNO | number)


def _low(argument: int) -> bytes:
    return _step(_LOAD, 16 + 8 * argument)  # both machines are little-endian


def _high(argument: int) -> bytes:
    return _step(_LOAD, 20 + 8 * argument)


def _one_of(values: Iterable[int], then: bytes) -> bytes:
    return b"".join(_step(_EQUAL, value, 0, 1) + then for value in values)


def _judge(name: str, pid: int) -> bytes:
    """The block that decides one call by its arguments; it always returns."""
    allow, refuse = _step(_RETURN, _ALLOW), _refuse(errno.EPERM)
    if name == "clone":  # a thread, and nothing that is not one
        return _low(0) + _step(_AND, _CLONE_THREAD | _CLONE_NEW) + _step(_EQUAL, _CLONE_THREAD, 0, 1) + allow + refuse
    if name in ("kill", "tgkill"):  # itself: abort() and pthread_kill need it
        return _low(0) + _step(_EQUAL, pid, 0, 1) + allow + refuse
    if name == "prlimit64":  # reading its own
        own = _low(0) + _step(_EQUAL, 0, 2, 0) + _step(_EQUAL, pid, 1, 0) + refuse
        return own + _low(2) + _step(_EQUAL, 0, 1, 0) + refuse + _high(2) + _step(_EQUAL, 0, 1, 0) + refuse + allow
    if name == "prctl":
        return _low(0) + _one_of(_PRCTL, allow) + refuse
    if name == "ioctl":
        return _low(1) + _one_of(_IOCTL, allow) + _refuse(errno.ENOTTY)
    if name == "fcntl":
        return _low(1) + _one_of(_FCNTL, refuse) + allow
    raise AssertionError(name)


def machine() -> str:
    """The machine's name as the tables know it; "" when they do not."""
    name = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    return name if name in _ARCHES and struct.calcsize("P") == 8 else ""


@cache
def program(pid: int, arch: str) -> bytes:
    """The filter as BPF instructions of 8 bytes each, for the process that has this pid in its own namespace; arch as in machine()."""
    column, audit = _ARCHES[arch]
    answers: dict[int, bytes] = {}
    allow = _step(_RETURN, _ALLOW)
    for table, answer in (
        (ALLOWED, allow),
        (REFUSED, _refuse(errno.EPERM)),
        (PRETENDED, _refuse(0)),
        (UNSUPPORTED, _refuse(errno.EOPNOTSUPP)),
    ):
        answers |= {numbers[column]: answer for numbers in table.values()}
    steps = [_step(_LOAD, 4), _step(_EQUAL, audit, 1, 0), _step(_RETURN, _KILL), _step(_LOAD, 0)]
    if arch == "x86_64":
        steps += [_step(_NOT_BELOW, _X32, 0, 1), _step(_RETURN, _KILL)]
    for name, numbers in JUDGED.items():
        if numbers[column] >= 0:
            block = _judge(name, pid)
            steps += [_step(_EQUAL, numbers[column], 0, len(block) // 8), block]
    answers.pop(-1, None)
    todo = sorted(answers)
    while todo:  # runs of neighbours with the same answer take one test
        first = last = todo.pop(0)
        while todo and todo[0] == last + 1 and answers[todo[0]] == answers[first]:
            last = todo.pop(0)
        test = _step(_EQUAL, first, 0, 1) if first == last else _step(_NOT_BELOW, first, 0, 2) + _step(_ABOVE, last, 1, 0)
        steps += [test, answers[first]]
    return b"".join([*steps, _refuse(errno.ENOSYS)])
