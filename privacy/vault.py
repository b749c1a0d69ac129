"""The vault: which shopper stands behind a pseudonym, and who is never to come back.

In: ids as the shop has them. Out: pseudonyms, HMAC-SHA256 of an id under a key of that shopper alone; without the key, which forgetting destroys, nobody can say whose a pseudonym was. The file (SQLite) holds nothing in
clear: keys and ids are sealed with AES-256-GCM under a master key that stands in another place, ids are looked up by an HMAC. One vault and the same ids give the same pseudonyms.
"""

import base64
import fcntl
import hashlib
import hmac
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY, NONCE = 32, 12  # bytes
SECRETS = ("lookup", "suppression", "linking")  # keys that all shoppers share
PREFIX = "p_"  # of pseudonyms
VISITOR = "visitor:"  # before the id of somebody who never signed in, which stays readable: online/state.py
HISTORY, LINKS = "", "links:"  # what is consented to: the use of what was done; that ids are linked
MOST = 500  # values of one question to SQLite
TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS secrets (name TEXT PRIMARY KEY, sealed BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS people (lookup BLOB PRIMARY KEY, pseudonym TEXT NOT NULL UNIQUE, key BLOB NOT NULL, name BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS suppressed (mark BLOB PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS consents (mark BLOB PRIMARY KEY, granted INTEGER NOT NULL, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS requests (mark BLOB PRIMARY KEY, name BLOB NOT NULL, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS looks (at REAL NOT NULL, who TEXT NOT NULL, why TEXT NOT NULL, pseudonym TEXT NOT NULL);
"""


class VaultError(Exception):
    """The vault cannot be used; the message says why and what to do."""


class Look(NamedTuple):
    """Who asked whose a pseudonym is, when (seconds) and why."""

    at: float
    who: str
    why: str
    pseudonym: str


class Vault:
    """Safe to call from several threads and processes.

    Args:
        file: of the vault. master: the file of its master key, outside the repository. Where neither is there, both are made.

    Raises:
        VaultError: one of them is missing, or they do not belong together.
    """

    def __init__(self, file: Path, master: Path):
        self.file, self._own = file, threading.local()
        _make(file, master)
        with _told(file):
            self._check_master(master)

    def pseudonyms(self, ids: Iterable[str], add: bool = True) -> dict[str, str]:
        """The pseudonym of each id; one that was not seen before gets one where `add` is set, and is left out otherwise. What is a pseudonym of this vault already stays as it is. Who was forgotten is left out."""
        ids = list(dict.fromkeys(ids))
        marks = {self._mark("lookup", i): i for i in ids}
        with _told(self.file):
            found = {marks[mark]: told for mark, told in self._of("people", "lookup", "lookup, pseudonym", list(marks))}
            taken = {told for (told,) in self._of("people", "pseudonym", "pseudonym", [bare(i) for i in ids if i not in found])}
            found |= {i: i for i in ids if i not in found and bare(i) in taken}
            gone = self.forgotten(ids)
            if add and (new := [i for i in ids if i not in found and i not in gone]):
                with self._writing() as base:
                    base.executemany("INSERT OR IGNORE INTO people VALUES (?, ?, ?, ?)", map(self._new, new))
                found |= self.pseudonyms(new, add=False)  # another process may have been first
        return {i: visible(i, told) for i, told in found.items() if i not in gone}

    def forgotten(self, ids: Iterable[str]) -> set[str]:
        """Those that asked to be forgotten."""
        if not self._base().execute("SELECT 1 FROM suppressed LIMIT 1").fetchone():
            return set()
        marks = {self._mark("suppression", i): i for i in ids}
        return {marks[mark] for (mark,) in self._of("suppressed", "mark", "mark", list(marks))}

    def resolve(self, pseudonym: str, who: str, why: str) -> str | None:
        """Whose pseudonym it is; None: nobody's, or of somebody who was forgotten. That it was asked is kept."""
        with self._writing() as base:
            base.execute("INSERT INTO looks VALUES (?, ?, ?, ?)", (time.time(), who, why, pseudonym))
        return self.names([pseudonym]).get(pseudonym)

    def names(self, pseudonyms: Iterable[str]) -> dict[str, str]:
        """Ids by pseudonym, for whoever delivers to them; of those that are in the vault."""
        wanted = {bare(p): p for p in pseudonyms}
        rows = self._of("people", "pseudonym", "pseudonym, key, name", list(wanted))
        return {wanted[told]: _open(_open(self._master, key, told), name, told).decode() for told, key, name in rows}

    def known(self, user_id: str) -> str | None:
        """The pseudonym of an id, also of somebody who is about to be forgotten; None: there is none."""
        return next((told for (told,) in self._of("people", "lookup", "pseudonym", [self._mark("lookup", user_id)])), None)

    def looks(self) -> list[Look]:
        """Who asked whose pseudonyms, oldest first."""
        return [Look(*row) for row in self._base().execute("SELECT at, who, why, pseudonym FROM looks ORDER BY at")]

    def hashed(self, value: str) -> str:
        """The same for the same value, of something other than a person that might lead to one, such as an order: HMAC-SHA256 under the linking key, 128 bits."""
        return _short(hmac.digest(self._secrets["linking"], value.encode(), "sha256"))

    def suppress(self, user_id: str) -> None:
        """From now on the shopper is nobody's, by id and pseudonym: no table and no door takes them. They stay in the vault until they are forgotten."""
        with self._writing() as base:
            base.executemany("INSERT OR IGNORE INTO suppressed VALUES (?, ?)", [(m, time.time()) for m in self._marks(user_id)])

    def lift(self, user_id: str) -> bool:
        """Lets a shopper come again, who wants to; whether they had been kept away."""
        with self._writing() as base:
            gone = [base.execute("DELETE FROM suppressed WHERE mark = ?", (mark,)).rowcount for mark in self._marks(user_id)]
        return any(gone)

    def consent(self, user_id: str, granted: bool, to: str = HISTORY) -> None:
        """Keeps whether a shopper consents to the use of what they did, or to being known again (LINKS); the newest word counts."""
        with self._writing() as base:
            base.executemany("INSERT OR REPLACE INTO consents VALUES (?, ?, ?)", [(m, granted, time.time()) for m in self._marks(user_id, to)])  # fmt: skip

    def consents(self, ids: Iterable[str], to: str = HISTORY) -> dict[str, bool]:
        """What was said by those who said anything."""
        if not self._base().execute("SELECT 1 FROM consents LIMIT 1").fetchone():
            return {}
        marks = {self._mark("suppression", to + i): i for i in ids}
        return {marks[mark]: bool(granted) for mark, granted in self._of("consents", "mark", "mark, granted", list(marks))}

    def forget(self, user_id: str) -> None:
        """Destroys a shopper's key, and what is known of who they were; what was overwritten does not stay in the file."""
        pseudonym, marks = self.known(user_id), self._marks(user_id)
        with self._writing() as base:
            base.execute("DELETE FROM people WHERE lookup = ?", (self._mark("lookup", user_id),))
            base.execute("DELETE FROM requests WHERE mark = ?", (self._mark("suppression", user_id),))
            base.executemany("DELETE FROM consents WHERE mark = ?", [(mark,) for mark in (*marks, *self._marks(user_id, LINKS))])
            base.execute("DELETE FROM looks WHERE pseudonym = ?", (pseudonym,))
        self._base().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def ask(self, user_id: str) -> None:
        """Keeps the wish to be forgotten until it is done, sealed, so that no scheduler has to know the id."""
        self.suppress(user_id)
        mark = self._mark("suppression", user_id)
        with self._writing() as base:
            base.execute("INSERT OR IGNORE INTO requests VALUES (?, ?, ?)", (mark, _seal(self._master, user_id, mark.hex()), time.time()))  # fmt: skip

    def asked(self) -> list[str]:
        """Who asked to be forgotten and is still known, oldest wish first."""
        rows = self._base().execute("SELECT mark, name FROM requests ORDER BY at").fetchall()
        return [_open(self._master, name, mark.hex()).decode() for mark, name in rows]

    def rotate(self, master: Path) -> None:
        """Gives the vault a new master key; pseudonyms stay as they are. Killed at any moment, either the old key opens it or the new one, which stands where the next start looks for it.

        master: the file of the key.
        """
        new, beside = secrets.token_bytes(KEY), _next(master)
        _write_key(beside, new)

        def again(sealed: bytes, of: str) -> bytes:
            return _seal(new, _open(self._master, sealed, of), of)

        with self._writing() as base:
            for table, of, column in (
                ("secrets", "name", "sealed"),
                ("people", "pseudonym", "key"),
                ("requests", "mark", "name"),
            ):
                rows = base.execute(f"SELECT {of}, {column} FROM {table}").fetchall()
                changed = [(again(sealed, of if isinstance(of, str) else of.hex()), of) for of, sealed in rows]
                base.executemany(f"UPDATE {table} SET {column} = ? WHERE {of} = ?", changed)
            base.execute("UPDATE facts SET value = ? WHERE name = 'master'", (_fingerprint(new),))
        os.replace(beside, master)
        self._base().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._master = new

    def _check_master(self, master: Path) -> None:
        """Reads the key that opens this vault: a rotation that was killed left the new one beside the old."""
        [(wanted,)] = self._base().execute("SELECT value FROM facts WHERE name = 'master'").fetchall()
        for path in (_next(master), master):
            if path.exists() and _fingerprint(key := path.read_bytes()) == wanted:
                if path != master:
                    os.replace(path, master)
                self._master = key
                self._secrets = {
                    name: _open(key, sealed, name) for name, sealed in self._base().execute("SELECT name, sealed FROM secrets")
                }
                return
        raise VaultError(
            f"{master} is not the master key of the vault {self.file}: bring the right one back, or name it (privacy.master_key)"
        )

    def _new(self, user_id: str) -> tuple[bytes, str, bytes, bytes]:
        key = secrets.token_bytes(KEY)
        told = PREFIX + _short(hmac.digest(key, user_id.encode(), "sha256"))
        return self._mark("lookup", user_id), told, _seal(self._master, key, told), _seal(key, user_id, told)

    def _marks(self, user_id: str, to: str = HISTORY) -> list[bytes]:
        """By which a shopper is known to be left alone: of the id and of the pseudonym, by which logs name them. to: what, of consents."""
        return [self._mark("suppression", to + name) for name in {user_id, visible(user_id, self.known(user_id) or user_id)}]

    def _mark(self, secret: str, user_id: str) -> bytes:
        return hmac.digest(self._secrets[secret], user_id.encode(), "sha256")[:16]

    def _of(self, table: str, key: str, columns: str, values: list) -> list[tuple]:
        base, found = self._base(), []
        for start in range(0, len(values), MOST):
            part = values[start : start + MOST]
            found += base.execute(f"SELECT {columns} FROM {table} WHERE {key} IN ({', '.join('?' * len(part))})", part).fetchall()
        return found

    def _base(self) -> sqlite3.Connection:
        if not hasattr(self._own, "base"):
            self._own.base = _connected(self.file)
        return self._own.base

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        base = self._base()
        with _told(self.file):
            base.execute("BEGIN IMMEDIATE")
            try:
                yield base
                base.execute("COMMIT")
            except BaseException:
                base.execute("ROLLBACK")
                raise


def bare(user_id: str) -> str:
    """The id, of a visitor without what says that they are one."""
    return user_id.removeprefix(VISITOR)


def visible(user_id: str, pseudonym: str) -> str:
    """The pseudonym of an id; of a visitor it says that they are one."""
    return VISITOR + bare(pseudonym) if user_id.startswith(VISITOR) else pseudonym


def opened(checkout: Path, vault: str, master_key: str | None) -> Vault:
    """The vault of a checkout, by the settings `privacy` of params.yaml: paths start at the checkout.

    Raises:
        VaultError: see Vault.
    """
    return Vault(*places(checkout, vault, master_key))


def places(checkout: Path, vault: str, master_key: str | None) -> tuple[Path, Path]:
    """Where the vault and its master key stand; of a key that no setting names, the user's own folder of settings.

    Raises:
        VaultError: there is no such folder.
    """
    file = checkout.absolute() / Path(vault).expanduser()
    if master_key:
        return file, checkout.absolute() / Path(master_key).expanduser()
    try:
        own = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    except RuntimeError as error:
        raise VaultError("privacy.master_key: this user has no home; say where the master key may stand") from error
    return file, own / "pushcart" / f"{hashlib.sha256(os.fsencode(file.resolve())).hexdigest()[:12]}.key"


def _make(file: Path, master: Path) -> None:
    """Makes vault and key where neither is there."""
    if file.exists():
        if not master.exists() and not _next(master).exists():
            raise VaultError(
                f"the master key {master} of the vault {file} is not there: bring it back from where you keep it, or name it (privacy.master_key)"
            )
        return
    if master.exists():
        raise VaultError(
            f"the vault {file} is not there, but its master key {master} is: bring the vault back from a copy (privacy.vault); to begin anew, with other "
            "pseudonyms, remove the key"
        )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with (file.parent / ".making").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if file.exists():
                return
            _fill(file, master)
    except OSError as error:
        raise VaultError(
            f"vault {file} and master key {master} cannot be made: {error.strerror}; say where they may stand (privacy.vault, privacy.master_key)"
        ) from error


def _fill(file: Path, master: Path) -> None:
    """Makes both: the key first, so that a vault never stands without it."""
    key, partial = secrets.token_bytes(KEY), file.with_name(f".{file.name}.new")
    partial.unlink(missing_ok=True)
    base = _connected(partial)
    base.execute("INSERT INTO facts VALUES ('master', ?)", (_fingerprint(key),))
    base.executemany(
        "INSERT INTO secrets VALUES (?, ?)", [(name, _seal(key, secrets.token_bytes(KEY), name)) for name in SECRETS]
    )
    base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    base.close()
    os.chmod(partial, 0o600)
    _write_key(_next(master), key)
    os.replace(partial, file)
    os.replace(_next(master), master)


def _write_key(path: Path, key: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(key)
        file.flush()
        os.fsync(file.fileno())


def _next(master: Path) -> Path:
    """Where a new key waits until the vault has it."""
    return master.with_name(f"{master.name}.next")


def _connected(file: Path) -> sqlite3.Connection:
    base = sqlite3.connect(file, timeout=60, isolation_level=None)
    base.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA secure_delete = ON;" + TABLES)
    return base


@contextmanager
def _told(file: Path) -> Iterator[None]:
    """What SQLite or a key says is wrong, as one sentence."""
    try:
        yield
    except sqlite3.Error as error:
        raise VaultError(f"the vault {file} cannot be used: {error}; bring it back from a copy") from error
    except InvalidTag as error:
        raise VaultError(f"the vault {file} is damaged: a key in it cannot be opened; bring it back from a copy") from error


def _seal(key: bytes, value: bytes | str, of: str) -> bytes:
    """AES-256-GCM; what it belongs to is authenticated, so that rows cannot be exchanged."""
    nonce = secrets.token_bytes(NONCE)
    return nonce + AESGCM(key).encrypt(nonce, value.encode() if isinstance(value, str) else value, of.encode())


def _open(key: bytes, sealed: bytes, of: str) -> bytes:
    return AESGCM(key).decrypt(sealed[:NONCE], sealed[NONCE:], of.encode())


def _fingerprint(key: bytes) -> str:
    return hashlib.sha256(b"pushcart vault" + key).hexdigest()[:16]


def _short(digest: bytes) -> str:
    """128 bits as 26 small letters and digits."""
    return base64.b32encode(digest[:16]).decode().rstrip("=").lower()
