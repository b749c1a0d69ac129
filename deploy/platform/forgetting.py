"""Forgets a shopper on this machine, by all ids that are known to be theirs: from the moment it is asked for nobody takes them in again, then every place where they are known is cleared, then what says who they were is destroyed.

In: an id, or a pseudonym. Out: a receipt that names every place and nobody. Killed at any moment, it goes on when it is asked for again.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryFile

from deploy.promotion.environments import Environment, environments, params_of
from privacy.vault import Vault, bare, opened, visible

WITHIN = timedelta(days=30)  # models are retrained: GDPR 12(3) gives a month


class Busy(Exception):
    """A run is at work, which would write what is being erased; the message names it."""


def vault_of(checkout: Path) -> Vault:
    """The vault of a checkout, which is made where there is none.

    Raises:
        VaultError: it cannot be opened.
    """
    told = params_of(checkout)["privacy"]
    return opened(checkout, told["vault"], told["master_key"])


def has_vault(checkout: Path) -> bool:
    """Whether there is one: without it nobody has a pseudonym and nobody asked to be forgotten."""
    return (checkout / Path(params_of(checkout)["privacy"]["vault"]).expanduser()).exists()


def forget(checkout: Path, vault: Vault, user_id: str, tell: Callable[[dict], None] = lambda done: None) -> dict:
    """The receipt: number, when, by when models are retrained, places. tell: is told of each place as it is done.

    Raises:
        Busy: nothing was erased yet, but nobody takes them in any more. RuntimeError: a program failed; asked for again, it goes on.
    """
    user_id = vault.names([user_id]).get(user_id, user_id)
    ids = linked(checkout, vault, user_id)
    for one in ids:
        vault.ask(one)
    _check_nothing_runs(checkout)
    places = []
    for done in _everywhere(checkout, sorted({name for one in ids for name in names_of(vault, one)})):
        tell(done)
        places.append(done)
    for one in ids:
        vault.forget(one)
    done = {"place": "the vault", "count": 1, "what": "key destroyed; nobody can say any more whose the pseudonym was"}
    tell(done)
    now = datetime.now(UTC)
    receipt = {"receipt": f"{now:%Y%m%dT%H%M%S%f}", "at": now.isoformat(timespec="seconds"), "retrain_by": f"{now + WITHIN:%Y-%m-%d}", "places": [*places, done]}  # fmt: skip
    file = vault.file.parent / "receipts" / f"{receipt['receipt']}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(receipt, indent=1) + "\n", encoding="utf-8")
    return receipt


def tell_all(checkout: Path, user_id: str) -> dict:
    """All that is known of a shopper (pipelines/rights/telling.py), by id or pseudonym.

    Raises:
        VaultError: the vault cannot be opened. RuntimeError: a program failed.
    """
    names = [user_id]
    if has_vault(checkout):
        vault = vault_of(checkout)
        ids = linked(checkout, vault, vault.names([user_id]).get(user_id, user_id))
        names = sorted({name for one in ids for name in names_of(vault, one)})
    else:
        names = json.loads("".join(rights(checkout, ["ids"], names)))
    return json.loads("".join(rights(checkout, ["tell"], names)))


def names_of(vault: Vault, user_id: str) -> list[str]:
    """The id and, where there is one, the pseudonym; of a visitor as tables of shoppers name them and as those of visitors do."""
    told = vault.known(user_id) or user_id
    return sorted({user_id, bare(user_id), told, visible(user_id, told)})


def linked(checkout: Path, vault: Vault, user_id: str) -> list[str]:
    """All ids of whoever has this one (pipelines/link.py), under which they would come again."""
    found = json.loads("".join(rights(checkout, ["ids"], names_of(vault, user_id))))
    told = vault.names(found)
    return sorted({user_id, *(told.get(name, name) for name in found)} - {vault.known(user_id)})


def _everywhere(checkout: Path, names: list[str]) -> Iterator[dict]:
    yield from map(json.loads, rights(checkout, ["forget"], names))

    def change(bento: Path) -> bool:
        return json.loads("".join(rights(checkout, ["bento", str(bento)], names)))

    for name in environments(checkout):
        changed = Environment(checkout, name).remake(change)
        yield {"place": f"the bentos of {name}", "count": changed, "what": "made again without them, and served"}


def rights(checkout: Path, words: list[str], names: list[str]) -> Iterator[str]:
    """Lines that pipelines/rights says, as it says them. Names are told on standard input.

    Raises:
        RuntimeError: it failed.
    """
    code = str(Path(__file__).resolve().parents[2])
    with subprocess.Popen(
        [sys.executable, "-m", "pipelines.rights", *words],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=(told := TemporaryFile()), cwd=checkout, text=True, encoding="utf-8", env=os.environ | {"PYTHONPATH": code},
    ) as running:  # fmt: skip
        running.stdin.write(json.dumps(names))
        running.stdin.close()
        yield from running.stdout
    if running.returncode:
        told.seek(0)
        raise RuntimeError(told.read().decode(errors="replace").strip()[-2000:])


def _check_nothing_runs(checkout: Path) -> None:
    """Raises: Busy: a stage is at work, in the checkout or in a run of Airflow; it would write again what it has read."""
    for folder in (checkout, *(checkout / ".airflow" / "runs").glob("*")):
        lock = folder / ".dvc" / "tmp" / "rwlock"
        try:
            held = json.loads(lock.read_text(encoding="utf-8")).get("write", {})
        except (OSError, ValueError):
            continue
        if any(Path("/proc", str(holder["pid"])).exists() for holder in held.values() if holder):
            raise Busy(
                f"a run is at work in {folder}: the shopper is not taken in any more, and is erased by `pushcart forget --pending` once it has ended"
            )
