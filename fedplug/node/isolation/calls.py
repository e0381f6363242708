"""The numbers of system calls, of the two architectures on which nodes run (linux/unistd.h)."""

from __future__ import annotations

SAME = {
    "clone3": 435, "fchmodat2": 452, "file_setattr": 469, "fsopen": 430, "io_uring_enter": 426,
    "io_uring_register": 427, "io_uring_setup": 425, "landlock_add_rule": 445, "landlock_create_ruleset": 444,
    "landlock_restrict_self": 446, "memfd_secret": 447, "mount_setattr": 442, "move_mount": 429,
    "open_tree": 428, "pidfd_getfd": 438, "pidfd_open": 434, "pidfd_send_signal": 424, "process_madvise": 440,
    "process_mrelease": 448, "removexattrat": 466, "setxattrat": 463,
}  # fmt: skip
"""The newer ones have one number everywhere."""

_EACH: dict[str, tuple[int | None, int | None]] = {
    "accept": (43, 202), "accept4": (288, 242), "acct": (163, 89), "add_key": (248, 217), "bind": (49, 200),
    "bpf": (321, 280), "capset": (126, 91), "chmod": (90, None), "chown": (92, None), "chroot": (161, 51),
    "clock_settime": (227, 112), "clone": (56, 220), "connect": (42, 203), "delete_module": (176, 106),
    "execve": (59, 221), "execveat": (322, 281), "fanotify_init": (300, 262), "fchmod": (91, 52),
    "fchmodat": (268, 53), "fchown": (93, 55), "fchownat": (260, 54), "finit_module": (313, 273),
    "fork": (57, None), "fremovexattr": (199, 16), "fsetxattr": (190, 7), "futimesat": (261, None),
    "init_module": (175, 105), "ioprio_set": (251, 30), "kcmp": (312, 272), "kexec_file_load": (320, 294),
    "kexec_load": (246, 104), "keyctl": (250, 219), "kill": (62, 129), "lchown": (94, None),
    "listen": (50, 201), "lremovexattr": (198, 15), "lsetxattr": (189, 6), "migrate_pages": (256, 238),
    "mount": (165, 40), "move_pages": (279, 239), "mq_open": (240, 180), "msgget": (68, 186),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "perf_event_open": (298, 241),
    "personality": (135, 92), "pivot_root": (155, 41), "prctl": (157, 167), "prlimit64": (302, 261),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "ptrace": (101, 117),
    "quotactl": (179, 60), "reboot": (169, 142), "removexattr": (197, 14), "request_key": (249, 218),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274), "sched_setparam": (142, 118), "sched_setscheduler": (144, 119),
    "seccomp": (317, 277), "semget": (64, 190), "setns": (308, 268), "setpgid": (109, 154),
    "setpriority": (141, 140), "setsid": (112, 157), "settimeofday": (164, 170), "setxattr": (188, 5),
    "shmget": (29, 194), "socket": (41, 198), "socketpair": (53, 199), "swapon": (167, 224),
    "syslog": (103, 116), "tgkill": (234, 131), "tkill": (200, 130), "umount2": (166, 39), "unshare": (272, 97),
    "userfaultfd": (323, 282), "utime": (132, None), "utimensat": (280, 88), "utimes": (235, None),
    "vfork": (58, None),
}  # fmt: skip
"""Of x86_64 and of aarch64; None where there is no such call."""

ARCHITECTURES = ("x86_64", "aarch64")

NUMBERS: dict[str, dict[str, int]] = {
    machine: SAME | {name: number for name, each in _EACH.items() if (number := each[index]) is not None}
    for index, machine in enumerate(ARCHITECTURES)
}
"""By architecture and name."""
