"""The broker of a stress run, and everything that can be asked of it from outside."""

import http.client
import json
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import attrs
import trio

__all__ = ["CONFIG", "OUTBOX_BYTES", "BrokerProcess", "Held", "client_context"]

OUTBOX_BYTES = 262144
"""What may wait for one client."""

CONFIG = """
[server]
bind = "127.0.0.1:{port}"
drain_timeout = 10
tls_certificate = "{folder}/cert.pem"
tls_key = "{folder}/key.pem"
[redis]
url = "redis://127.0.0.1:{redis}"
[control]
ping_interval = 1
upgrade_hold = 9
[events]
ping_interval = {ping}
pong_timeout = {pong}
history = {{epic = {{size = 200, ttl = 300}}}}
[limits]
max_connections = {connections}
max_publication_bytes = 131072
outbox_bytes = {outbox}
handshake_timeout = {head}
close_timeout = {patience}
[admin]
bind = "127.0.0.1:{admin}"
[log]
format = "json"
"""


@attrs.frozen
class Held:
    """What a broker holds at one moment."""

    tasks: int
    descriptors: int
    rss_kib: int
    events: int
    control: int
    handshakes: int
    subscriptions: int
    channels: int
    rooms: int

    @property
    def countable(self) -> dict[str, int]:
        """All that must be exactly what it was; memory is not."""
        found: dict[str, int] = attrs.asdict(self)
        del found["rss_kib"]
        return found


class BrokerProcess:
    """One life of the broker; its certificate and key must be in `folder` already."""

    def __init__(self, folder: Path, config: str, port: int, admin: int) -> None:
        self.log = folder / "broker.log"
        self._port = port
        # One connection for all questions: it is among what is held, always, and not just sometimes for a moment.
        self._admin = http.client.HTTPConnection("127.0.0.1", admin, timeout=60)
        self._asking = trio.Lock()
        self._told = folder / "tasks"
        file = folder / "broker.toml"
        file.write_text(config)
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.stress.broker", str(file), str(self._told)], stdout=out, stderr=out
            )

    async def listening(self, patience: float) -> None:
        """Wait until it accepts connections."""
        with trio.fail_after(patience):
            while True:
                try:
                    stream = await trio.open_tcp_stream("127.0.0.1", self._port)
                except OSError:
                    assert self.process.poll() is None, self.log.read_text()
                    await trio.sleep(0.05)
                else:
                    await stream.aclose()
                    return

    async def metrics(self) -> dict[str, float]:
        """Read its metrics: name with labels -> value."""
        async with self._asking:
            return await trio.to_thread.run_sync(self._read_metrics)

    def _read_metrics(self) -> dict[str, float]:
        try:
            self._admin.request("GET", "/metrics")
            answer = self._admin.getresponse()
        except (http.client.RemoteDisconnected, ConnectionError):  # it was idle for too long
            self._admin.close()
            self._admin.request("GET", "/metrics")
            answer = self._admin.getresponse()
        lines = answer.read().decode().splitlines()
        pairs = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    async def held(self) -> Held:
        """Look at what it holds, the connection that is asked through included."""
        found = await self.metrics()
        self._told.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        with trio.fail_after(60):
            while not self._told.exists():  # noqa: ASYNC110  it is about another process
                await trio.sleep(0.01)
        proc = Path(f"/proc/{self.process.pid}")
        resident = next(line for line in (proc / "status").read_text().splitlines() if line.startswith("VmRSS"))
        return Held(
            tasks=int(self._told.read_text()),
            descriptors=sum(1 for _ in (proc / "fd").iterdir()),
            rss_kib=int(resident.split()[1]),
            events=int(found['signalbox_connections{kind="events"}']),
            control=int(found['signalbox_connections{kind="control"}']),
            handshakes=int(found['signalbox_connections{kind="handshake"}']),
            subscriptions=int(found["signalbox_subscriptions"]),
            channels=int(found["signalbox_channels"]),
            rooms=int(found["signalbox_rooms"]),
        )

    def terminate(self) -> None:
        """Ask for an orderly end; nothing else can be asked any more."""
        self._admin.close()
        self.process.send_signal(signal.SIGTERM)

    async def ended(self, patience: float) -> int:
        """Wait for its end and return its status."""
        with trio.fail_after(patience):
            while (status := self.process.poll()) is None:  # noqa: ASYNC110
                await trio.sleep(0.02)
        return status

    def kill(self) -> None:
        """End it in any case."""
        self._admin.close()
        self.process.kill()
        self.process.wait()

    def errors(self) -> list[str]:
        """Lines of the log that must not be there."""
        lines = self.log.read_text().splitlines()
        records = [json.loads(line) if line.startswith("{") else {"level": "error", "event": line} for line in lines]
        return [json.dumps(record) for record in records if record["level"] in ("error", "critical")]


def client_context(certificate: Path) -> ssl.SSLContext:
    """A context that trusts this authority."""
    return ssl.create_default_context(cafile=str(certificate))
