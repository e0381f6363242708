"""What the kernel refuses a process that has shut itself in, asked through the C library, which Python does not see."""

from __future__ import annotations

import pytest


def test_no_socket_of_any_family_can_be_made(shut_in):
    told = shut_in("told = {family: call('socket', family, 1, 0) for family in (1, 2, 10, 16, 17, 40)}")
    assert set(told.values()) == {"EPERM"}


def test_there_is_no_network_even_for_who_could_make_a_socket(shut_in):
    told = shut_in(
        "lines = [line.split(':')[0].strip() for line in open('/proc/self/net/dev') if ':' in line]\n"
        "told = {'interfaces': sorted(lines)}"
    )
    assert told["interfaces"] in ([], ["lo"])


def test_pairs_of_sockets_are_streams_which_reach_nobody_else(shut_in):
    told = shut_in(
        "pair = (ctypes.c_int * 2)()\n"
        "told = {kind: call('socketpair', 1, kind, 0, pair) for kind in (1, 1 | 0o2000000, 2, 5)}"
    )
    assert told == {"1": "allowed", str(1 | 0o2000000): "allowed", "2": "EPERM", "5": "EPERM"}


@pytest.mark.parametrize(
    "code",
    [
        "libc.fork", "libc.vfork",
    ],
)  # fmt: skip
def test_no_process_can_be_made(shut_in, code):
    told = shut_in(
        f"pid = {code}()\nif pid == 0: os._exit(1)\ntold = {{'pid': pid, 'error': errno.errorcode[ctypes.get_errno()]}}"
    )
    assert told == {"pid": -1, "error": "EPERM"}


def test_threads_can_be_made(shut_in):
    code = "import threading\nthreads = [threading.Thread(target=told.update, args=({n: n},)) for n in range(8)]\n"
    told = shut_in(code + "[each.start() for each in threads]\n[each.join() for each in threads]")
    assert len(told) == 8


def test_with_processes_a_child_may_be_made_but_not_leave_its_group(shut_in):
    told = shut_in(
        "read, write = os.pipe()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    tried = [call('setsid'), call('setpgid', 0, 0), call('unshare', 0x10000000)]\n"
        "    os.write(write, json.dumps(tried).encode())\n"
        "    os._exit(0)\n"
        "os.waitpid(pid, 0)\n"
        "told = {'child': json.loads(os.read(read, 1000))}",
        processes=1,
    )
    assert told["child"] == ["EPERM"] * 3


def test_no_hand_can_be_laid_on_another_process(shut_in):
    told = shut_in(
        "parent = os.getppid()\n"
        "limit = (ctypes.c_ulong * 2)(10, 10)\n"
        "told['kill'] = call('kill', parent, 0)\n"
        "told['group'] = call('kill', 0, 0)\n"
        "told['all'] = call('kill', -1, 0)\n"
        "number = ctypes.c_long(234 if os.uname().machine == 'x86_64' else 131)\n"
        "told['tgkill'] = call('syscall', number, parent, parent, 0)\n"
        "told['prlimit'] = call('prlimit', parent, 7, limit, None)\n"
        "told['priority'] = call('setpriority', 0, parent, 19)\n"
        "told['ptrace'] = call('ptrace', 16, parent, None, None)\n"
        "told['pidfd'] = call('syscall', ctypes.c_long(434), parent, 0)\n"
        "told['memory'] = call('open', f'/proc/{parent}/mem'.encode(), 0)\n"
        "told['environment'] = call('open', f'/proc/{parent}/environ'.encode(), 0)"
    )
    assert told.pop("memory") in ("EACCES", "EPERM")
    assert told.pop("environment") in ("EACCES", "EPERM")
    assert set(told.values()) == {"EPERM"}, told


def test_its_own_limits_and_signals_are_its_own(shut_in):
    told = shut_in(
        "import resource, signal\n"
        "told['limit'] = resource.getrlimit(resource.RLIMIT_NOFILE)[0]\n"
        "told['core'] = resource.getrlimit(resource.RLIMIT_CORE)\n"
        "signal.signal(signal.SIGUSR1, lambda *_: told.update(got=True))\n"
        "os.kill(os.getpid(), signal.SIGUSR1)"
    )
    assert told == {"limit": 4096, "core": [0, 0], "got": True}


def test_it_cannot_outlive_its_supervisor_nor_hide_from_it(shut_in):
    told = shut_in("told = {option: call('prctl', option, 0, 0, 0, 0) for option in (1, 4)}")
    assert told == {"1": "EPERM", "4": "EPERM"}


def test_mode_and_times_of_a_file_outside_stay_as_they_are(shut_in, places):
    secret = places / "outside" / "secret"
    before = secret.stat()
    told = shut_in(
        "path = str(outside / 'secret').encode()\n"
        "told = {'chmod': call('chmod', path, 0o777), 'utimes': call('utimes', path, None),\n"
        "        'chown': call('chown', path, 0, 0), 'xattr': call('setxattr', path, b'user.x', b'y', 1, 0)}"
    )
    assert told == {"chmod": "allowed", "utimes": "allowed", "chown": "EPERM", "xattr": "EPERM"}
    after = secret.stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_mode,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )


def test_memory_of_the_whole_system_cannot_be_taken(shut_in):
    told = shut_in(
        "told = {'shm': call('shmget', 0, 4096, 0o1600), 'messages': call('msgget', 0, 0o1600), "
        "'semaphores': call('semget', 0, 1, 0o1600)}"
    )
    assert set(told.values()) == {"EPERM"}


def test_only_the_data_set_and_the_installation_can_be_opened(shut_in, places):
    told = shut_in(
        "told = {\n"
        "    'data': call('open', str(data).encode(), 0), 'written': call('open', str(data).encode(), 1),\n"
        "    'beside': call('open', str(data.parent / 'other.csv').encode(), 0o101),\n"
        "    'secret': call('open', str(outside / 'secret').encode(), 0),\n"
        "    'listed': call('open', str(outside).encode(), 0o200000),\n"
        "    'shadow': call('open', b'/etc/shadow', 0), 'passwd': call('open', b'/etc/passwd', 0),\n"
        "    'home': call('open', b'/root', 0o200000), 'opt': call('open', b'/opt', 0o200000),\n"
        "    'scratch': call('open', (confinement.scratch + '/new').encode(), 0o102, 0o600),\n"
        "    'source': call('open', os.__file__.encode(), 0),\n"
        "    'link': call('symlink', str(outside / 'secret').encode(), (confinement.scratch + '/link').encode()),\n"
        "    'followed': call('open', (confinement.scratch + '/link').encode(), 0),\n"
        "    'removed': call('unlink', str(outside / 'secret').encode()),\n"
        "    'hard': call('link', str(outside / 'secret').encode(), (confinement.scratch + '/hard').encode()),\n"
        "}"
    )
    good = {name for name, what in told.items() if what == "allowed"}
    assert good == {"data", "scratch", "source", "link"}, told
    assert (places / "outside" / "secret").read_text() == "secret"


def test_no_privilege_is_left_but_to_read(shut_in):
    told = shut_in(
        "lines = [line.strip() for line in open('/proc/self/status') if line.startswith(('Cap', 'NoNew'))]\n"
        "told = dict(line.split(':\\t') for line in lines)"
    )
    allowed = (1 << 1) | (1 << 2)
    assert told["NoNewPrivs"] == "1"
    assert all(
        int(value, 16) & ~allowed == 0
        for name, value in told.items()
        if name in ("CapEff", "CapPrm", "CapAmb", "CapInh")
    )


def test_cores_can_be_bounded_and_the_bound_stays(shut_in):
    told = shut_in(
        "told['cores'] = len(os.sched_getaffinity(0))\n"
        "told['again'] = attempt(os.sched_setaffinity, 0, range(os.cpu_count()))",
        threads=1,
    )
    assert told == {"cores": 1, "again": "PermissionError"}


def test_memory_is_bounded(shut_in):
    code = "try: bytearray(1 << 32)\nexcept MemoryError: told['memory'] = 'none left'"
    assert shut_in(code, memory=1 << 31) == {"memory": "none left"}
