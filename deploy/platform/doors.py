"""The doors of this machine's server: API keys in a file, and certificates of an authority of its own, so that what goes over a network is neither read nor asked for by everybody.

In: settings of a shop, a folder. Out: deploy/serving/access.py's file; ca.pem, which clients trust, server.pem and server.key.
"""

import json
import os
from datetime import UTC, date, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from deploy.platform.processes import PlatformError
from deploy.serving import access

AUTHORITY, SERVER = (
    timedelta(days=3650),
    timedelta(days=397),
)  # how long certificates hold; browsers take none of servers for longer


def add_key(file: Path, name: str, scopes: list[str], days: int | None = None, rate: float | None = None) -> str:
    """Adds a key, which is told this once; rate: requests a second and worker that may be made with it, None: any number. One of the same name is replaced: that is how a key is rotated.

    Raises:
        PlatformError: there is no such scope.
    """
    if wrong := set(scopes) - access.SCOPES.keys():
        raise PlatformError(f"there is no scope {', '.join(sorted(wrong))}; there are {', '.join(access.SCOPES)}")
    key, until = access.new_key(), None
    if days is not None:
        until = (datetime.now(UTC).date() + timedelta(days=days)).isoformat()
    told = {"sha256": access.hashed(key), "scopes": sorted(scopes), "until": until, "rate": rate}
    _write(file, keys_of(file) | {name: told})
    return key


def remove_key(file: Path, name: str) -> bool:
    """Takes a key away; whether there was one."""
    found = keys_of(file)
    gone = found.pop(name, None) is not None
    if gone:
        _write(file, found)
    return gone


def keys_of(file: Path) -> dict[str, dict]:
    """The keys by name, none where there is no file.

    Raises:
        PlatformError: it is no file of keys.
    """
    try:
        return access.read(file) if file.exists() else {}
    except access.AccessError as error:
        raise PlatformError(str(error)) from error


def make_certificates(folder: Path, names: list[str]) -> tuple[date, date]:
    """Makes a certificate for a server of these names and addresses, by the authority of the folder, which is made where there is none. Until when both hold."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    now = datetime.now(UTC) - timedelta(minutes=5)  # clocks differ
    if not (folder / "ca.key").exists():
        key, named = (
            ec.generate_private_key(ec.SECP256R1()),
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Pushcart, this checkout")]),
        )
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        made = _certificate(named, named, key.public_key(), now, now + AUTHORITY).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), True
        )
        _keep(folder, "ca", key, made.add_extension(usage, True).sign(key, hashes.SHA256()))
    authority = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    signing = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    key = ec.generate_private_key(ec.SECP256R1())
    until = min(now + SERVER, authority.not_valid_after_utc)
    own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    made = _certificate(own, authority.subject, key.public_key(), now, until)
    made = made.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), False)
    made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
    _keep(folder, "server", key, made.sign(signing, hashes.SHA256()))
    return authority.not_valid_after_utc.date(), until.date()


def over_tls(url: str, folder: Path) -> tuple[str, Path]:
    """The URL by TLS, and the certificate of the authority that clients trust.

    Raises:
        PlatformError: see check_certificate.
    """
    check_certificate(folder)
    return url.replace("http:", "https:"), folder / "ca.pem"


def check_certificate(folder: Path) -> None:
    """Raises: PlatformError: there is no certificate, it is not readable, or it holds no longer."""
    try:
        found = x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())
    except FileNotFoundError as error:
        raise PlatformError(f"there is no certificate in {folder}: make one with `pushcart certs`") from error
    except ValueError as error:
        raise PlatformError(f"{folder / 'server.pem'} is no certificate; make one with `pushcart certs`") from error
    if found.not_valid_after_utc < datetime.now(UTC):
        raise PlatformError(
            f"the certificate in {folder} held until {found.not_valid_after_utc:%Y-%m-%d}: make another with `pushcart certs`"
        )


def _certificate(subject: x509.Name, issuer: x509.Name, key, since: datetime, until: datetime) -> x509.CertificateBuilder:
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return made.serial_number(x509.random_serial_number()).not_valid_before(since).not_valid_after(until)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _keep(folder: Path, name: str, key, certificate: x509.Certificate) -> None:
    plain = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _private(folder / f"{name}.key", plain)
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _write(file: Path, keys: dict) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    _private(file, (json.dumps(keys, indent=1) + "\n").encode())


def _private(file: Path, content: bytes) -> None:
    """Writes a file that its owner alone may read, whole."""
    beside = file.with_name(f".{file.name}.partial")
    beside.unlink(missing_ok=True)
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    os.replace(beside, file)
