"""Which ids are the same person's and why, for whoever is asked about it; and what the next run is not to link again.

In: an id, or a pseudonym. Out: links with reasons, as the last run found them; a row of campaigns/undone_links.csv.
"""

import csv
import json
from pathlib import Path

from deploy.platform.forgetting import has_vault, names_of, rights, vault_of

UNDONE = Path("campaigns/undone_links.csv")


def links_of(checkout: Path, user_id: str) -> dict:
    """{"ids": all ids of whoever has this one, "links": rows of one, other, reason, chance, taken}.

    Raises:
        VaultError: the vault cannot be opened. RuntimeError: a program failed.
    """
    return json.loads("".join(rights(checkout, ["links"], _names(checkout, user_id))))


def undo(checkout: Path, one: str, other: str) -> bool:
    """From the next run on two ids are not one person's, whatever speaks for it; False: that was said before.

    Raises:
        VaultError: see links_of.
    """
    one, other = (_names(checkout, user_id)[0] for user_id in (one, other))
    file = checkout / UNDONE
    with file.open(newline="", encoding="utf-8") as said:
        if {one, other} in [{row["one"], row["other"]} for row in csv.DictReader(said)]:
            return False
    with file.open("a", newline="", encoding="utf-8") as said:
        csv.writer(said, lineterminator="\n").writerow([one, other])
    return True


def _names(checkout: Path, user_id: str) -> list[str]:
    """By which names tables know whoever has an id, a pseudonym first."""
    if not has_vault(checkout):
        return [user_id]
    vault = vault_of(checkout)
    own = vault.names([user_id]).get(user_id, user_id)
    return sorted(names_of(vault, own), key=lambda name: name == own)
