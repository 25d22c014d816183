#!/usr/bin/env python3
"""Boots a real systemd as process 1 of namespaces of its own, runs one command inside it, and goes.

    boot.py [--bind SOURCE:TARGET]... [--file SOURCE:TARGET]... [--timeout SECONDS] -- COMMAND [ARGUMENT]...

The guest sees this machine's file system with a layer of memory over it: what it writes is gone afterwards, and nothing
here changes. It has no network but its own loopback, and none of this machine's services. --bind shows a directory at
another place, read-only; --file lays a copy of a file over the guest's system.

Exits with the command's status; 77 where it cannot work (not root, no systemd, no cgroup2, no overlayfs), 124 when it
took too long. Needs only Python's library, util-linux 2.38 and systemd itself.
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SYSTEMD = Path("/lib/systemd/systemd")
CANNOT = 77
TOO_LONG = 124

NODES = ("null", "zero", "full", "random", "urandom", "tty")

WANTED = {"sysinit.target.wants": ("systemd-journald.service",), "sockets.target.wants": ("systemd-journald.socket",)}
"""What of the system's own units starts; all others would care for a machine that this is not."""

NO_CAPABILITIES = "-sys_boot,-sys_module,-sys_time,-sys_rawio,-mac_admin,-mac_override,-wake_alarm,-syslog"

TARGET = """\
[Unit]
Requires=basic.target
Wants=check.service
After=basic.target
"""

SERVICE = """\
[Unit]
After=basic.target
SuccessAction=exit
FailureAction=exit
[Service]
Type=oneshot
LimitNOFILE=65536
ExecStart={command}
WorkingDirectory={directory}
StandardOutput=append:/exchange/output
StandardError=append:/exchange/output
"""


def main() -> int:
    """Run as the one who boots, or, inside the namespaces, as the one who builds the guest."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--bind", action="append", default=[], metavar="SOURCE:TARGET")
    parser.add_argument("--file", action="append", default=[], metavar="SOURCE:TARGET")
    parser.add_argument("--timeout", type=float, default=300)
    parser.add_argument("--stage", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    if options.stage is not None:
        build_and_enter(options, options.stage)
    if reason := why_not():
        print(f"boot: {reason}", file=sys.stderr)
        return CANNOT
    return boot(options.timeout)


def why_not() -> str | None:
    """Say why this machine cannot boot a guest; None if it can, as far as one sees from here."""
    if os.geteuid() != 0:
        return "needs root"
    if not SYSTEMD.exists() or shutil.which("systemctl") is None:
        return "systemd is not installed"
    if shutil.which("unshare") is None or shutil.which("setpriv") is None:
        return "needs unshare and setpriv (util-linux)"
    if cgroup_root() is None:
        return "no cgroup2 hierarchy is mounted"
    if (
        "\toverlay\n" not in Path("/proc/filesystems").read_text()
        and subprocess.run(["modprobe", "overlay"]).returncode
    ):
        return "the kernel has no overlayfs"
    return None


def cgroup_root() -> Path | None:
    """Where cgroup2 is mounted."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place)
    return None


def boot(timeout: float) -> int:
    """Start the guest in a control group of its own and show what its command says, until it is over."""
    root = cgroup_root()
    assert root is not None
    group = root / f"signalbox-{os.getpid()}"
    stage = Path(tempfile.mkdtemp(prefix="signalbox-boot-"))
    output = stage / "output"
    output.touch()
    group.mkdir()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(130))
    try:
        # The child joins the group itself, before anything that it starts could stay outside.
        guest = subprocess.Popen(
            ["sh", "-c", 'echo 0 >"$0" && exec "$@"', str(group / "cgroup.procs"),
             "unshare", "--pid", "--mount", "--uts", "--ipc", "--net", "--cgroup", "--fork", "--kill-child=KILL",
             "--propagation", "private", sys.executable, __file__, "--stage", str(stage), *sys.argv[1:]],
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + timeout
        with output.open(errors="replace") as said:
            while True:
                over = guest.poll() is not None
                sys.stdout.write(said.read())
                sys.stdout.flush()
                if over:
                    return guest.returncode
                if time.monotonic() > deadline:
                    print(f"boot: not done after {timeout:g} s", file=sys.stderr)
                    return TOO_LONG
                time.sleep(0.05)
    finally:
        clear(group)
        shutil.rmtree(stage, ignore_errors=True)


def clear(group: Path) -> None:
    """Leave no process and no group behind, whatever happened."""
    (group / "cgroup.kill").write_text("1")
    for _ in range(100):
        for path in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
            with contextlib.suppress(OSError):
                path.rmdir()
        try:
            group.rmdir()
        except OSError:
            time.sleep(0.05)
        else:
            return


# What follows runs inside the namespaces, as process 1.


def build_and_enter(options: argparse.Namespace, stage: Path) -> None:
    """Put the guest's file system together, make it the root, and become systemd."""
    guest = stage / "root"
    mount("tmpfs", "signalbox", stage / "memory", "mode=755")
    for name in ("upper", "work"):
        (stage / "memory" / name).mkdir()
    mount("overlay", "overlay", guest, f"lowerdir=/,upperdir={stage}/memory/upper,workdir={stage}/memory/work")
    mount_kernel_file_systems(guest)
    mount_devices(guest / "dev")
    for name, mode in (("run", "755"), ("tmp", "1777"), ("etc/systemd/system", "755"), ("exchange", "755")):
        mount("tmpfs", "tmpfs", guest / name, f"mode={mode}")
    keep_services_out(guest)
    for pair in options.file:
        source, target = pair.split(":")
        place = guest / target.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, place)
    for pair in options.bind:
        source, target = pair.split(":")
        bind(Path(source), guest / target.lstrip("/"), read_only=True)
    units = guest / "etc/systemd/system"
    (units / "check.target").write_text(TARGET)
    command = " ".join(f'"{word}"' for word in options.command)
    (units / "check.service").write_text(SERVICE.format(command=command, directory=Path.cwd()))
    (guest / "exchange/output").touch()
    bind(stage / "output", guest / "exchange/output")
    enter(guest)


def mount_kernel_file_systems(guest: Path) -> None:
    """The guest's own processes, and its own part of the control groups; nothing of the kernel can be set."""
    mount("proc", "proc", guest / "proc", "nosuid,nodev,noexec")
    for name in ("sys", "sysrq-trigger", "irq", "bus", "fs"):
        if (guest / "proc" / name).exists():
            bind(guest / "proc" / name, guest / "proc" / name, read_only=True)
    mount("sysfs", "sysfs", guest / "sys", "nosuid,nodev,noexec,ro")
    mount("cgroup2", "cgroup2", guest / "sys/fs/cgroup", "nosuid,nodev,noexec")


def mount_devices(dev: Path) -> None:
    """As few devices as any program expects."""
    mount("tmpfs", "tmpfs", dev, "mode=755,nosuid")
    for name in NODES:
        (dev / name).touch()
        bind(Path("/dev") / name, dev / name)
    mount("devpts", "devpts", dev / "pts", "newinstance,ptmxmode=0666,mode=620,gid=5")
    mount("tmpfs", "tmpfs", dev / "shm", "mode=1777")
    (dev / "ptmx").symlink_to("pts/ptmx")
    (dev / "fd").symlink_to("/proc/self/fd")
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        (dev / name).symlink_to(f"/proc/self/fd/{descriptor}")


def keep_services_out(guest: Path) -> None:
    """Let nothing of this machine start in the guest: no enabled unit, no generated one, no file system of fstab's."""
    units = guest / "lib/systemd/system"
    for wants in units.glob("*.wants"):
        mount("tmpfs", "tmpfs", wants, "mode=755")
        for name in WANTED.get(wants.name, ()):
            (wants / name).symlink_to(f"/lib/systemd/system/{name}")
    mount("tmpfs", "tmpfs", guest / "lib/systemd/system-generators", "mode=755")
    (guest / "etc/fstab").write_text("")
    (guest / "etc/machine-id").write_text(f"{os.urandom(16).hex()}\n")


def enter(guest: Path) -> None:
    """Make the guest's file system the root and hand this process over to systemd."""
    (guest / "host").mkdir()
    os.chdir(guest)
    run("pivot_root", ".", "host")
    os.chdir("/")
    run("umount", "-l", "/host")
    run("mount", "--make-rshared", "/")
    run("hostname", "guest")
    environ = {"container": "signalbox-test", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    arguments = ["--system", "--unit=check.target", "--log-target=journal", "--show-status=no"]
    os.execve(
        shutil.which("setpriv") or "setpriv",
        ["setpriv", "--bounding-set", NO_CAPABILITIES, str(SYSTEMD), *arguments],
        environ | {"LANG": "C.UTF-8"},
    )


def mount(kind: str, source: str, place: Path, options: str) -> None:
    """Mount a file system, at a place that is made if need be."""
    place.mkdir(parents=True, exist_ok=True)
    run("mount", "-t", kind, "-o", options, source, str(place))


def bind(source: Path, place: Path, *, read_only: bool = False) -> None:
    """Show a file or directory at another place."""
    if source.is_dir():
        place.mkdir(parents=True, exist_ok=True)
    run("mount", "--bind", str(source), str(place))
    if read_only:
        run("mount", "-o", "remount,bind,ro", str(place))


def run(*command: str) -> None:
    """Run a program that has to succeed."""
    subprocess.run(command, check=True)


if __name__ == "__main__":
    sys.exit(main())
