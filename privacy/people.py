"""By which names shoppers are known here: the shop's own ids, or pseudonyms where settings say so; and who is nobody, as they asked to be forgotten.

In: ids and events as a shop sends them. Out: the same as tables, logs and answers may know them.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from privacy.vault import HISTORY, LINKS, VISITOR, Vault, VaultError, bare, opened

OPT_OUT, OPT_IN = "opt_out", "opt_in"
FORGOTTEN = "the shopper asked to be forgotten"
ON, OFF = ("true", "1", "yes", "on"), ("", "false", "0", "no", "off")
LINKING = (
    "session_id",
    "order_id",
    "email_hash",
    "phone_hash",
    "device_hash",
    "address_hash",
)  # by which the shop's own systems know whose an event is


class People:
    """Safe to call from several threads.

    Args:
        vault: None: there is none, so nobody was forgotten. pseudonyms: whether shoppers are known by them. consent: whether what somebody did is used until they refuse (`opt_out`), or from when they consent
            (`opt_in`). make: opens the vault, which is made where there is none. is_made: whether there is one by now.
    """

    def __init__(
        self,
        vault: Vault | None = None,
        pseudonyms: bool = False,
        consent: str = OPT_OUT,
        make: Callable[[], Vault] | None = None,
        is_made: Callable[[], bool] = lambda: False,
    ):
        self._vault, self.pseudonyms, self.opt_in = vault, pseudonyms, consent == OPT_IN
        self._make, self._is_made = make, is_made

    @property
    def vault(self) -> Vault | None:
        """None: nobody was forgotten yet, and shoppers are known by the shop's own ids."""
        if self._vault is None and self._make and self._is_made():
            self._vault = self._make()
        return self._vault

    def forgotten(self, ids: Iterable[str]) -> set[str]:
        """Those that asked to be forgotten."""
        vault = self.vault
        return vault.forgotten(ids) if vault else set()

    def withheld(self, ids: Iterable[str]) -> set[str]:
        """Those whose doings may not be used: they refused, or, where that is asked for, did not consent."""
        ids, vault = list(ids), self.vault
        said = vault.consents(ids) if vault else {}
        return {i for i in ids if not said.get(i, not self.opt_in)}

    def links_said(self, ids: Iterable[str]) -> dict[str, bool]:
        """Whether ids may be linked, of those that said so."""
        return self.vault.consents(ids, LINKS) if self.vault else {}

    def say(self, user_id: str, granted: bool, to: str = HISTORY) -> None:
        """Keeps what a shopper says of the use of what they did, or of being known again (LINKS).

        Raises:
            VaultError: it cannot be kept, as there is no vault and none can be made.
        """
        if self.vault is None and self._make is None:
            raise VaultError("no vault is named: PUSHCART_VAULT")
        self._vault = self._vault or self._make()
        self.added([user_id])  # so that what they say holds for the name by which the log knows them
        self._vault.consent(user_id, granted, to)

    def refuse(self, names: Iterable[str]) -> None:
        """Keeps that somebody who said so under one id (say) refuses the use of what they did under these names of theirs, too.

        names: as tables and answers know them.
        """
        ids = self._vault.names(names).values() if self.pseudonyms else names
        for one in ids:
            self._vault.consent(one, False)

    def known_as(self, user_id: str) -> str:
        """The name of a shopper or visitor; of one who was never seen or was forgotten the id, which is nobody's."""
        return self.vault.pseudonyms([user_id], add=False).get(user_id, user_id) if self.pseudonyms else user_id

    def added(self, ids: Iterable[str]) -> dict[str, str]:
        """The names of shoppers who may be new; those who were forgotten are left out."""
        ids = list(ids)
        gone = self.forgotten(ids)
        return self.vault.pseudonyms(ids) if self.pseudonyms else {i: i for i in ids if i not in gone}

    def named(self, lines: list[dict]) -> list[dict]:
        """Lines of the log as it may keep them; what became of those of shoppers who were forgotten is said in their place."""
        vault = self.vault
        if vault is None:
            return lines
        ids = [i for line in lines for i in ids_of(line)]
        gone, told = vault.forgotten(ids), vault.pseudonyms(ids) if self.pseudonyms else {}
        return [
            _nothing_of(line) if gone.intersection(ids_of(line)) else self._renamed(line, told) if self.pseudonyms else line
            for line in lines
        ]

    def _renamed(self, line: dict, told: dict[str, str]) -> dict:
        changed: dict[str, str] = {}
        if "user_id" in line:
            changed["user_id"] = told[line["user_id"]]
        if "visitor_id" in line:
            changed["visitor_id"] = bare(told[VISITOR + line["visitor_id"]])
        changed |= {name: self.vault.hashed(line[name]) for name in LINKING if name in line}
        if "refused" in line:
            changed["row"] = ""  # what was sent may name anybody
        return line | changed


def ids_of(line: dict) -> list[str]:
    """Whom a line of the log names."""
    found = [line["user_id"]] if line.get("user_id") else []
    return found + ([VISITOR + line["visitor_id"]] if line.get("visitor_id") else [])


def of_settings(checkout: Path, vault: str, master_key: str | None, pseudonyms: bool, consent: str = OPT_OUT) -> People:
    """By the settings `privacy` of params.yaml: paths start at the checkout. Without pseudonyms nothing is made before it is needed.

    Raises:
        VaultError: the vault cannot be opened.
    """
    if pseudonyms:
        return People(opened(checkout, vault, master_key), pseudonyms, consent)
    file = checkout / Path(vault).expanduser()
    return People(consent=consent, make=lambda: opened(checkout, vault, master_key), is_made=file.exists)


def is_on(variable: str) -> bool:
    """Whether a variable of the environment is switched on.

    Raises:
        ValueError: it says neither.
    """
    told = os.environ.get(variable, "").lower()
    if told not in (*ON, *OFF):
        raise ValueError(f"{variable}: {told!r} is neither true nor false")
    return told in ON


def of_environment() -> People:
    """By PUSHCART_VAULT and PUSHCART_MASTER_KEY, files; and PUSHCART_PSEUDONYMS, true or false. Nobody is told by a command line, which everybody on the machine reads.

    Raises:
        VaultError: see of_settings.
    """
    vault = os.environ.get("PUSHCART_VAULT")
    if not vault:
        return People()
    return of_settings(Path.cwd(), vault, os.environ.get("PUSHCART_MASTER_KEY"), is_on("PUSHCART_PSEUDONYMS"))


def _nothing_of(line: dict) -> dict:
    """What the log keeps of an event that it may not keep."""
    return {"refused": FORGOTTEN, "row": ""} | {name: line[name] for name in ("received", "offset") if name in line}
