"""``hub serve`` where others can reach it."""

import signal
from pathlib import Path

import aiohttp

from tests.e2e.process import command
from tests.server.certificates import Certificate, make_certificate


async def healthy(url: str, certificate: Certificate) -> bool:
    """Whether who trusts this certificate, and no other, gets an answer."""
    connector = aiohttp.TCPConnector(ssl=certificate.client())
    async with aiohttp.ClientSession(connector=connector) as client:
        try:
            async with client.get(f"{url}/health") as answer:
                return answer.status == 200
        except aiohttp.ClientConnectorCertificateError:
            return False


async def test_a_renewed_certificate_is_used_after_sighup(tmp_path: Path) -> None:
    """A broken one is not, and hub goes on with the one before."""
    old, new = make_certificate(tmp_path, "old"), make_certificate(tmp_path, "new")
    first = Certificate(tmp_path / "first.pem", old.key)
    first.cert.write_bytes(old.cert.read_bytes())
    served = ("--tls-cert", str(old.cert), "--tls-key", str(old.key))
    async with command("serve", "--sim", "--port", "0", *served) as hub:
        assert hub.url.startswith("https://")
        assert await healthy(hub.url, first)
        old.cert.write_text("half a certificate")
        hub.process.send_signal(signal.SIGHUP)
        assert await healthy(hub.url, first)
        old.cert.write_bytes(new.cert.read_bytes())
        old.key.write_bytes(new.key.read_bytes())
        hub.process.send_signal(signal.SIGHUP)
        while not await healthy(hub.url, new):
            assert hub.process.returncode is None
        assert not await healthy(hub.url, first)
        assert await hub.stop() == 0
