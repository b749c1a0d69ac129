"""The vault: pseudonyms that stay, keys that go, and one clear sentence where it cannot be opened."""

import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from privacy.people import People
from privacy.vault import LINKS, Vault, VaultError, opened, places


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "vault" / "vault.sqlite", tmp_path / "keys" / "master.key"


def test_a_vault_gives_the_same_pseudonyms_and_says_nothing_in_clear(files: tuple[Path, Path]):
    told = Vault(*files).pseudonyms(["alice@shop", "bob", "visitor:v-77"])
    assert Vault(*files).pseudonyms(["bob", "alice@shop", "visitor:v-77"]) == told
    assert len(set(told.values())) == 3
    assert told["visitor:v-77"].startswith("visitor:p_")
    assert Vault(*files).pseudonyms(told.values(), add=False) == {p: p for p in told.values()}  # they stay as they are
    assert Vault(*files).pseudonyms(["stranger"], add=False) == {}
    for path in files[0].parent.iterdir():
        assert not any(name in path.read_bytes() for name in (b"alice", b"bob", b"v-77"))
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)


def test_who_asks_whose_a_pseudonym_is_stands_in_the_vault(files: tuple[Path, Path]):
    vault = Vault(*files)
    told = vault.pseudonyms(["alice"])["alice"]
    assert vault.resolve(told, "ann", "a complaint") == "alice"
    assert vault.resolve("p_nobody", "ann", "curious") is None
    assert [(look.who, look.why, look.pseudonym) for look in vault.looks()] == [("ann", "a complaint", told), ("ann", "curious", "p_nobody")]  # fmt: skip


def test_who_is_forgotten_has_no_pseudonym_and_does_not_come_back(files: tuple[Path, Path]):
    vault = Vault(*files)
    told = vault.pseudonyms(["alice", "bob"])
    vault.ask("alice")
    assert vault.asked() == ["alice"]
    assert vault.pseudonyms(["alice", "bob"]) == {"bob": told["bob"]}
    vault.forget("alice")
    assert vault.asked() == []
    assert vault.resolve(told["alice"], "ann", "why not") is None
    assert Vault(*files).pseudonyms(["alice"]) == {}
    assert Vault(*files).forgotten(["alice", "bob"]) == {"alice"}
    content = b"".join(path.read_bytes() for path in files[0].parent.iterdir())
    assert told["bob"].encode() in content
    assert told["alice"].encode() in content
    assert vault.lift("alice")
    assert vault.pseudonyms(["alice"])["alice"] != told["alice"]


def test_the_newest_word_on_consent_counts_by_id_and_by_pseudonym(files: tuple[Path, Path]):
    vault = Vault(*files)
    told = vault.pseudonyms(["alice", "bob"])
    assert vault.consents(["alice"]) == {}
    vault.consent("alice", False)
    vault.consent("bob", True)
    assert vault.consents(["alice", "bob", told["alice"], "carol"]) == {"alice": False, "bob": True, told["alice"]: False}
    assert People(vault).withheld(["alice", "bob", "carol"]) == {"alice"}
    assert People(vault, consent="opt_in").withheld(["alice", "bob", "carol"]) == {"alice", "carol"}
    vault.consent("alice", True)
    assert vault.consents(["alice", told["alice"]]) == {"alice": True, told["alice"]: True}
    people = People(vault)
    people.say("alice", False, LINKS)
    assert people.links_said(["alice", told["alice"], "bob"]) == {"alice": False, told["alice"]: False}
    assert people.withheld(["alice"]) == set()  # that ids are linked is another matter
    named = People(vault, pseudonyms=True)
    mine = vault.pseudonyms(["visitor:v", "elsewhere"])
    named.refuse([told["bob"], *mine.values()])
    assert named.withheld(["bob", "visitor:v", "elsewhere", "carol"]) == {"bob", "visitor:v", "elsewhere"}
    vault.suppress("bob")
    assert vault.forgotten([told["bob"]]) == {told["bob"]}  # the log names them so until it is erased
    vault.forget("alice")
    assert (vault.consents(["alice"]), people.links_said(["alice"])) == ({}, {})


def test_a_forgotten_key_is_not_left_in_the_file(files: tuple[Path, Path]):
    vault = Vault(*files)
    told = vault.pseudonyms(["alice"])["alice"]
    with sqlite3.connect(files[0]) as base:
        [(key, name)] = base.execute("SELECT key, name FROM people").fetchall()
    base.close()
    vault.suppress("alice")
    vault.forget("alice")
    content = b"".join(path.read_bytes() for path in files[0].parent.iterdir())
    assert not any(part in content for part in (key, name, told.encode()))


def test_a_master_key_is_exchanged_and_pseudonyms_stay(files: tuple[Path, Path]):
    vault = Vault(*files)
    told, before = vault.pseudonyms(["alice", "bob"]), files[1].read_bytes()
    vault.ask("bob")
    vault.rotate(files[1])
    assert files[1].read_bytes() != before
    again = Vault(*files)
    assert again.pseudonyms(["alice"]) == {"alice": told["alice"]}
    assert again.asked() == ["bob"]
    assert again.resolve(told["alice"], "ann", "") == "alice"
    files[1].write_bytes(before)
    with pytest.raises(VaultError, match="not the master key"):
        Vault(*files)


@pytest.mark.parametrize(
    "moment", ["privacy.vault._fingerprint", "os.replace"]
)  # before the vault has it, before the key has its name
def test_a_rotation_that_is_killed_leaves_a_vault_that_opens(
    files: tuple[Path, Path], moment: str, monkeypatch: pytest.MonkeyPatch
):
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    vault = Vault(*files)
    told = vault.pseudonyms(["alice"])
    with monkeypatch.context() as patch:
        patch.setattr(moment, killed)
        with pytest.raises(KeyboardInterrupt):
            vault.rotate(files[1])
    assert Vault(*files).pseudonyms(["alice"]) == told


def test_what_is_missing_is_said_in_one_sentence(files: tuple[Path, Path], tmp_path: Path):
    Vault(*files)
    kept = files[1].read_bytes()
    files[1].unlink()
    with pytest.raises(VaultError, match=r"master key .* is not there"):
        Vault(*files)
    files[1].write_bytes(kept)
    files[0].rename(tmp_path / "elsewhere")
    with pytest.raises(VaultError, match=r"vault .* is not there, but its master key"):
        Vault(*files)
    files[0].write_bytes(b"no vault" * 1000)
    with pytest.raises(VaultError, match="cannot be used"):
        Vault(*files)


def test_where_nothing_may_be_written_a_setting_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").touch()
    with pytest.raises(VaultError, match=r"privacy\.vault"):
        opened(tmp_path, "file/vault.sqlite", "key")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    file, master = places(tmp_path, ".vault/vault.sqlite", None)
    assert file == tmp_path / ".vault/vault.sqlite"
    assert master.parent == tmp_path / "config" / "pushcart"
    assert os.fspath(tmp_path / "checkout") not in os.fspath(master)


def test_many_at_once_agree(files: tuple[Path, Path]):
    def ask(number: int) -> dict[str, str]:
        return Vault(*files).pseudonyms([f"u{k}" for k in range(number, number + 50)])

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(ask, [0, 10, 20, 30, 0]))
    assert found[0] == found[4]
    assert all(found[0][f"u{k}"] == found[1][f"u{k}"] for k in range(10, 50))
