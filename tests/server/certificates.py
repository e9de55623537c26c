"""Certificates that tests make."""

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Certificate:
    """One that signs itself, for this machine."""

    cert: Path
    key: Path

    def client(self) -> ssl.SSLContext:
        """What trusts it, and no other."""
        return ssl.create_default_context(cafile=self.cert)


def make_certificate(folder: Path, name: str = "hub") -> Certificate:
    """Make one. Skips the test where there is no ``openssl``."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl makes the certificate, and is not installed")
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", f"/CN={name}", "-keyout", made.key),
            *("-out", made.cert, "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
        ],
        check=True,
        capture_output=True,
    )
    return made
