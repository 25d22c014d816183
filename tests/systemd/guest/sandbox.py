"""The units themselves, and the sandbox that they promise."""

import json
import re
from pathlib import Path

from tests.systemd.guest.machine import SERVICE, drop_in, http_get, journal, main_pid, run, signalbox, systemctl

PROBE = """
import ctypes, json, mmap, os, socket, sys
def tries(what):
    try:
        what()
    except Exception as error:
        return type(error).__name__
    return "allowed"
libc = ctypes.CDLL(None, use_errno=True)
def checked(result):
    if result != 0: raise OSError(ctypes.get_errno(), "refused")
found = {
    "uid": os.getuid(),
    "write /etc": tries(lambda: open("/etc/probe", "w")),
    "write /opt": tries(lambda: open("/opt/signalbox/probe", "w")),
    "write state": tries(lambda: open("/var/lib/signalbox/probe", "w")),
    "read /root": tries(lambda: os.listdir("/root")),
    "read shadow": tries(lambda: open("/etc/shadow").read()),
    "see others": sorted(int(p) for p in os.listdir("/proc") if p.isdigit() and int(p) != os.getpid()),
    "raw socket": tries(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)),
    "packet socket": tries(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
    "netlink socket": tries(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)),
    "write and execute": tries(lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)),
    "namespace": tries(lambda: checked(libc.unshare(0x10000000))),
    "mount": tries(lambda: checked(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None))),
    "devices": sorted(os.listdir("/dev")),
}
json.dump(found, open("/run/signalbox/probe", "w"))
"""


async def check_units_verify() -> str:
    """The service manager finds nothing to say about the units, and scores the service at most 1.2."""
    units = [f"/etc/systemd/system/{name}" for name in (SERVICE, "signalbox.socket", "signalbox@.service")]
    complaints = await run("systemd-analyze", "verify", "--man=no", *units)
    assert not complaints, complaints
    scores = []
    for unit in (units[0], units[2]):
        report = await run("systemd-analyze", "security", "--offline=true", "--threshold=12", unit)
        found = re.search(r"exposure level for \S+ ([\d.]+)", report)
        assert found, report
        assert float(found[1]) <= 1.2, report
        scores.append(found[1])
    return f"exposure {' and '.join(scores)}"


async def check_sandbox_in_force() -> None:
    """The broker runs as nobody in particular, without capabilities; what it shall not do is refused to it."""
    Path("/usr/local/lib/probe.py").write_text(PROBE)
    await drop_in("[Service]\nExecStartPost=/opt/signalbox/bin/python /usr/local/lib/probe.py\n")
    await systemctl("start", SERVICE)
    found = json.loads(Path("/run/signalbox/probe").read_text())
    assert found.pop("uid") >= 61184, "not a dynamic user"
    assert 1 not in found.pop("see others"), "it sees processes that are not its own"
    devices = set(found.pop("devices"))
    assert not devices & {"mem", "kmsg", "sda", "vda", "net", "fuse"}, devices
    allowed = [what for what, answer in found.items() if answer == "allowed"]
    assert allowed == ["write state"], found
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{await main_pid()}/status").read_text().splitlines())
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


async def check_io_uring_in_the_sandbox() -> str:
    """Where the kernel has io_uring the broker may use it, behind its filter of system calls, too."""
    opened = await run("/opt/signalbox/bin/python", "-c", "from broker.wire import Ring; Ring()", check=False)
    await systemctl("start", SERVICE)
    told = next(line for line in await journal() if "io_uring" in line)
    assert ("no io_uring" in told) == bool(opened), f"outside: {opened or 'works'}; in the sandbox: {told}"
    return told


async def check_state_is_private() -> None:
    """The state belongs to the service's own user, nobody else can read it, and the command line reaches it as root."""
    await systemctl("start", SERVICE)
    state = Path("/var/lib/private/signalbox")
    broker = Path(f"/proc/{await main_pid()}").stat()
    assert state.stat().st_uid == broker.st_uid
    assert state.stat().st_mode & 0o077 == 0
    assert "acme" in await signalbox("keys", "add", "--org", "acme", "--json")


async def check_secrets_from_the_credential_store() -> None:
    """A file in /etc/credstore, readable by root alone, becomes the setting that it is named for."""
    store = Path("/etc/credstore")
    store.mkdir(mode=0o700, exist_ok=True)
    secret = store / "signalbox.redis.url"
    secret.write_text("redis://:hush@127.0.0.1:1/0")
    secret.chmod(0o600)
    try:
        await drop_in("[Service]\nEnvironment=SIGNALBOX_LOG__LEVEL=info\n")
        await systemctl("start", SERVICE)
        status, body = await http_get("/health/ready")
        assert (status, "redis_commands_down" in body) == (503, True), body
        text = await systemctl("status", SERVICE)
        assert "127.0.0.1:1" in text, text
        assert "hush" not in text
    finally:
        secret.unlink()
