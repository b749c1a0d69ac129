"""Who may ask a server for what: API keys, each with a name, scopes and a last day; and proofs by which a shop's pages say who is signed in. A file holds what keys are hashed to, never a key.

In: the file that `pushcart key` writes, a JSON object by name of {"sha256", "scopes", "until"}; the key of a request. Out: whether it may. A key that was taken out of the file opens nothing from the next
request on.
"""

import hashlib
import hmac
import json
import secrets
import time
from datetime import UTC, date, datetime
from pathlib import Path

SCOPES = {
    "answers": "what to recommend: /recommend, /search, /similar, /trending, /version",
    "marketing": "what to send whom, and who there is: /decide, /score, /score_encrypted, /bid, /audience",
    "events": "what shoppers did, and what they consent to: /events, /consent",
    "items": "what is new of items: /items",
    "service": "what to tell customers: /assist",
    "operations": "/metrics",
}
ROUTES = {
    **dict.fromkeys(("/decide", "/score", "/score_encrypted", "/bid", "/audience"), "marketing"),
    "/assist": "service",
    "/events": "events",
    "/consent": "events",
    "/items": "items",
    "/metrics": "operations",
    **dict.fromkeys(
        ("/", "/docs.json", "/livez", "/readyz", "/healthz", "/pushcart.js", "/chat.html"), None
    ),  # say nothing of the shop
}


class AccessError(Exception):
    """The file of keys cannot be used; the message says why."""


class Keys:
    """The keys of a file.

    Raises:
        AccessError: it is not there or not readable: nobody is let in because a file was lost.
    """

    def __init__(self, file: Path):
        self._file, self._read_at, self._by_hash = file, -1, {}
        self._look()

    def allow(self, key: str, path: str) -> bool:
        """Whether whoever holds a key may ask for a path."""
        scope = ROUTES.get(path, "answers" if not path.startswith("/static") else None)
        if scope is None:
            return True
        self._look()
        found = self._by_hash.get(hashed(key))
        return found is not None and scope in found["scopes"] and not _is_over(found["until"])

    def rate_of(self, key: str) -> float | None:
        """How many requests a second whoever holds a key may make; None: any number."""
        found = self._by_hash.get(hashed(key))
        return found["rate"] if found else None

    def _look(self) -> None:
        try:
            changed = self._file.stat().st_mtime_ns
            if changed != self._read_at:
                self._by_hash = {told["sha256"]: told for told in read(self._file).values()}
                self._read_at = changed
        except OSError as error:
            self._by_hash, self._read_at = {}, -1
            raise AccessError(
                f"the file of API keys {self._file} cannot be read: {error.strerror}; `pushcart key add` makes one"
            ) from error


def read(file: Path) -> dict[str, dict]:
    """What a file of keys says, by name.

    Raises:
        AccessError: it is none. OSError: it is not there.
    """
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        return {
            name: {"sha256": one["sha256"], "scopes": list(one["scopes"]), "until": one["until"], "rate": one.get("rate")}
            for name, one in told.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise AccessError(f"{file} is no file of API keys; `pushcart key add` writes one") from error


def new_key() -> str:
    """256 bits that nobody guesses."""
    return f"pushcart_{secrets.token_urlsafe(32)}"


def hashed(key: str) -> str:
    """What a file keeps of a key: SHA-256 suffices for what nobody can guess."""
    return hashlib.sha256(key.encode()).hexdigest()


def _is_over(until: str | None) -> bool:
    return until is not None and date.fromisoformat(until) < datetime.now(UTC).date()


def proof_of(secret: bytes, user_id: str, until: int) -> str:
    """What the shop's own pages hand to a signed-in shopper: until (seconds since 1970) and HMAC-SHA256 of both, so that nobody else can say who they are."""
    return f"{until}.{hmac.new(secret, f'{until}.{user_id}'.encode(), hashlib.sha256).hexdigest()}"


def is_proved(secret: bytes, user_id: str, proof: str) -> bool:
    """Whether a proof is of this shopper and not yet over."""
    until = proof.partition(".")[0]
    return (
        until.isascii()
        and until.isdigit()
        and len(until) < 12
        and int(until) > time.time()
        and hmac.compare_digest(proof_of(secret, user_id, int(until)).encode(), proof.encode())
    )
