"""Links by which a shopper opts out with one click: signed, so that nobody opts others out; without an end, as mail is read late.

In: whom, of what; or a token. Out: a link; or what a token says.
"""

import os
import secrets
from pathlib import Path

from itsdangerous import BadData, URLSafeSerializer

SALT = "pushcart unsubscribe"


def link(base: str, secret: bytes, user_id: str, channel: str, topic: str) -> str:
    """base: the address of the server that answers /unsubscribe/TOKEN."""
    return f"{base.rstrip('/')}/unsubscribe/{URLSafeSerializer(secret, salt=SALT).dumps([user_id, channel, topic])}"


def said(secret: bytes, token: str) -> tuple[str, str, str] | None:
    """Whom and what (user_id, channel, topic) a token opts out; None: it is not one of ours."""
    try:
        user_id, channel, topic = URLSafeSerializer(secret, salt=SALT).loads(token)
    except (BadData, ValueError, TypeError):
        return None
    return user_id, channel, topic


def secret(folder: Path) -> bytes:
    """What messages and links are signed with: PUSHCART_SECRET, else a file of the folder that its owner alone may read, made where it is missing."""
    if told := os.environ.get("PUSHCART_SECRET"):
        return told.encode()
    file = folder / "secret"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return file.read_bytes()
    with open(handle, "wb") as made:
        made.write(secrets.token_hex(32).encode())
        made.flush()
        os.fsync(made.fileno())
    return file.read_bytes()
