"""Environments: what staging and production serve. Promote, roll back, look.

An environment is a store, .environments/<name>: bentos/<version>, and generations/<number>, each with the entries (what is current, what was
before) and a link to the bento. The link `current` names a generation. It is the one source of truth: swapping it, by one rename, swaps what
is served and what is noted together, so a process that is killed at any point leaves the one or the other, whole. Everything before
the swap only adds, everything after it can be done again or left out.

deploy/environments/<name>.yaml is a copy of the entries for people and for git; nothing reads it.
"""

import fcntl
import getpass
import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import yaml

from deploy.promotion.gate import GateError, Row, rows
from deploy.serving.artefact import ArtefactError, code_digest, read_manifest, verified

log = logging.getLogger("pushcart")
KEPT = 10  # earlier bentos kept to roll back to, and rolled-back ones to go forward to
VERSION = re.compile(r"[0-9a-f]{12}")
NOTHING = {"current": None, "previous": [], "rolled_back": []}


class EnvironmentProblem(Exception):
    """There is no such environment, bento or earlier entry; the message says what to do."""


def environments(checkout: Path) -> list[str]:
    """The names of the environments that there are."""
    return params_of(checkout)["environments"]


def person() -> str:
    """Who is at work here: the user's name, or the number where there is none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return f"uid {os.getuid()}"


class Environment:
    """One environment of a checkout.

    Attributes:
        link: what a server follows: a generation, in which `bento` is what is served.

    Raises:
        EnvironmentProblem: params.yaml names no such environment.
    """

    def __init__(self, checkout: Path, name: str):
        self.checkout, self.name = checkout, name
        self.file = checkout / "deploy" / "environments" / f"{name}.yaml"
        self.store = checkout / ".environments" / name
        self.link = self.store / "current"
        if name not in environments(checkout):
            raise EnvironmentProblem(f"no environment {name!r}; params.yaml names {', '.join(environments(checkout))}")

    def entries(self) -> dict:
        """{"current": entry or None, "previous": [entries, newest first], "rolled_back": [the same]}."""
        for generation in self._generations():
            try:
                return NOTHING | json.loads((generation / "entries.json").read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue  # cleaned by hand: the one before it is what there is
        return NOTHING

    def bento(self, version: str) -> Path:
        """Where the bento of a version is kept.

        Raises:
            EnvironmentProblem: that is no version.
        """
        if not VERSION.fullmatch(version):
            raise EnvironmentProblem(f"{version!r} is no version of a bento; one is 12 digits of 0-9 and a-f")
        return self.store / "bentos" / version

    def promote(
        self,
        bento: Path,
        *,
        who: str,
        why: str,
        experiment: str | None = None,
        force: bool = False,
        show: Callable[[list[Row]], None] | None = None,
    ) -> dict:
        """Makes this bento the current one, if the gate lets it through or it is forced; returns its entry.

        Promoting what is current already changes nothing. A forced entry keeps what the gate refused.
        show: called with what the gate looked at, before it decides.

        Raises:
            GateError: the gate refuses. EnvironmentProblem: no bento there.
            deploy.serving.artefact.ArtefactError: the bento is damaged.
        """
        if not (bento / "bento.yaml").exists():
            raise EnvironmentProblem(f"{bento} is no bento; make one with `dvc repro`, or name a run of Airflow")
        manifest = checked(bento)
        with self._locked():
            self._tidy()
            entries = self.entries()
            current, version = entries["current"], manifest["version"]
            if current and current["version"] == version and self._whole(version):
                return current
            looked_at = self.gate(manifest)
            if show is not None:
                show(looked_at)
            refused = [row.note for row in looked_at if not row.passed]
            if refused and not force:
                raise GateError(looked_at)
            self._keep(bento, version)
            entry = {
                "bento": f"pushcart:{version}",
                "version": version,
                "digest": digest_of(bento),
                "experiment": experiment,
                "who": who,
                "when": datetime.now(UTC).isoformat(timespec="seconds"),
                "why": why,
            }
            if refused:
                entry["forced_past"] = refused
            others = {name: [e for e in entries[name] if e["version"] != version] for name in ("previous", "rolled_back")}
            if current and current["version"] != version:
                others["previous"] = [current, *others["previous"]]
            self._swap({"current": entry} | {name: found[:KEPT] for name, found in others.items()})
            self._tag(entry)
        return entry

    def rollback(self, *, who: str, why: str) -> dict:
        """Makes the newest earlier bento that is whole the current one again; returns its entry.

        Raises:
            EnvironmentProblem: there is none.
        """
        with self._locked():
            self._tidy()
            entries = self.entries()
            whole = [e for e in entries["previous"] if self._whole(e["version"])]
            if not whole:
                gone = f"; the bentos of {len(entries['previous'])} earlier entries are gone" if entries["previous"] else ""
                raise EnvironmentProblem(f"{self.name} has nothing to roll back to{gone}")
            entry = whole[0] | {"who": who, "when": datetime.now(UTC).isoformat(timespec="seconds"), "why": f"rollback: {why}"}
            older = entries["previous"][entries["previous"].index(whole[0]) + 1 :]
            self._swap({"current": entry, "previous": older, "rolled_back": [entries["current"], *entries["rolled_back"]][:KEPT]})
        return entry

    def remake(self, change: Callable[[Path], bool]) -> int:
        """Changes every bento that this environment keeps, in a copy, and serves and keeps the copies instead, by one swap: whoever was forgotten is in none of them. The entries say when. How many changed.

        change: changes a bento in its folder, and says whether there was anything to change. A bento that is not whole any more is not kept.
        """
        with self._locked():
            self._tidy()
            entries, changed, at = self.entries(), 0, datetime.now(UTC).isoformat(timespec="seconds")
            new: dict[str, list[dict]] = {"current": [], "previous": [], "rolled_back": []}
            for name, found in entries.items():
                for entry in [found] if isinstance(found, dict) else found or []:
                    if not self._whole(entry["version"]):
                        changed += 1
                        continue
                    with tempfile.TemporaryDirectory(prefix=".", suffix=".partial", dir=self.store / "bentos") as folder:
                        bento = Path(folder, "bento")
                        shutil.copytree(self.bento(entry["version"]), bento, symlinks=True)
                        if change(bento):
                            changed += 1
                            version = checked(bento)["version"]
                            self._keep(bento, version)
                            entry |= {
                                "bento": f"pushcart:{version}",
                                "version": version,
                                "digest": digest_of(bento),
                                "erased": at,
                            }
                    new[name].append(entry)
            if changed and new["current"]:
                self._swap({"current": new["current"][0], "previous": new["previous"], "rolled_back": new["rolled_back"]})
            return changed

    def gate(self, manifest: dict) -> list[Row]:
        """What the gate (settings `gate` of params.yaml) says of a bento with this manifest, beside what is served."""
        served, problem, current = None, None, self.entries()["current"]
        if current:
            try:
                served = read_manifest(self.bento(current["version"]) / "src" / "artefact")
            except (ArtefactError, EnvironmentProblem) as error:
                problem = str(error)
        return rows(manifest, served, problem, params_of(self.checkout)["gate"])

    def note_server(self, port: int) -> None:
        """Notes that a server of this environment listens on the port, so that status can ask it."""
        (self.store / "server.json").write_text(json.dumps({"port": port}), encoding="utf-8")

    def server_port(self) -> int | None:
        """The port of the newest server of this environment, running or not."""
        try:
            return int(json.loads((self.store / "server.json").read_text(encoding="utf-8"))["port"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _generations(self) -> list[Path]:
        """The current generation, then all others, newest first."""
        found = sorted((p for p in (self.store / "generations").glob("*") if p.name.isdigit()), key=lambda p: -int(p.name))
        named = Path(os.readlink(self.link)).name if self.link.is_symlink() else None
        return sorted(found, key=lambda p: p.name != named)

    def _whole(self, version: str) -> bool:
        try:
            checked(self.bento(version))
            return True
        except (ArtefactError, EnvironmentProblem):
            return False

    def _keep(self, bento: Path, version: str) -> None:
        """Copies the bento into the store, where it is not there yet, whole."""
        target = self.bento(version)
        if self._whole(version):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".", suffix=".partial", dir=target.parent))
        shutil.copytree(bento, partial / version, symlinks=True)
        _sync(partial)
        if target.exists():  # damaged: put aside, as somebody may want to look
            target.rename(target.with_name(f".{version}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"))
        (partial / version).rename(target)
        partial.rmdir()

    def _swap(self, entries: dict) -> None:
        """Makes a new generation of these entries the current one, by one rename; then what follows from it."""
        generations = self.store / "generations"
        generations.mkdir(parents=True, exist_ok=True)
        number = max((int(p.name) for p in generations.glob("*") if p.name.isdigit()), default=0) + 1
        partial = Path(tempfile.mkdtemp(prefix=".", suffix=".partial", dir=generations))
        (partial / "entries.json").write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (partial / "bento").symlink_to(Path("..", "..", "bentos", entries["current"]["version"]))
        _sync(partial)
        partial.chmod(0o755)
        partial.rename(generations / str(number))
        link = generations / ".link.partial"
        link.unlink(missing_ok=True)
        link.symlink_to(Path("generations", str(number)))
        os.replace(link, self.link)
        _sync(self.store, deep=False)
        self._after(entries)

    def _after(self, entries: dict) -> None:
        """The copy for people, and the bentos that no entry names any more; neither stands in the way of what is served."""
        comment = (
            f"# What {self.name} serves. Written by pushcart promote and rollback for people and git log; nothing reads it.\n"
        )
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            partial = self.file.with_name(f".{self.file.name}.partial")
            partial.write_text(comment + yaml.safe_dump(entries, sort_keys=False, allow_unicode=True), encoding="utf-8")
            os.replace(partial, self.file)
        except OSError as error:
            log.warning(
                "%s could not be written (%s); what is served is %s", self.file, error.strerror, entries["current"]["bento"]
            )
        self._tidy()

    def _tidy(self) -> None:
        """Removes what interrupted promotions left, bentos that no entry names, and all but the newest generations."""
        entries = self.entries()
        named = {e["version"] for e in [entries["current"], *entries["previous"], *entries["rolled_back"]] if e}
        for folder in ("bentos", "generations"):
            for left in (self.store / folder).glob(".*.partial"):
                left.unlink() if left.is_symlink() else shutil.rmtree(left, ignore_errors=True)
        for bento in (self.store / "bentos").glob("*"):
            if VERSION.fullmatch(bento.name) and bento.name not in named:
                shutil.rmtree(bento, ignore_errors=True)
        for generation in self._generations()[KEPT:]:
            shutil.rmtree(generation, ignore_errors=True)

    def _tag(self, entry: dict) -> None:
        """A git tag on the experiment's commit, from which the model can be made again."""
        if not entry["experiment"]:
            return
        found = subprocess.run(
            ["git", "for-each-ref", "--sort=-committerdate", "--format=%(objectname)", f"refs/exps/*/*/{entry['experiment']}"],
            cwd=self.checkout, capture_output=True, text=True,
        ).stdout.split()  # fmt: skip
        if found:
            tag = ["git", "tag", "--force", f"{self.name}-{entry['version']}", found[0]]
            made = subprocess.run(tag, cwd=self.checkout, capture_output=True, text=True)
            if made.returncode:
                log.warning("no git tag could be made for %s: %s", entry["bento"], made.stderr.strip())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.store.mkdir(parents=True, exist_ok=True)
        with (self.store / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def checked(bento: Path) -> dict:
    """The manifest of a bento, after its artefact and its code were found to be those that were bundled.

    Raises:
        ArtefactError: they are not.
    """
    manifest = verified(bento / "src" / "artefact")
    code = bento / "src"
    if not (code / "deploy/serving").is_dir() or code_digest(code) != manifest["serving_sha256"]:
        raise ArtefactError(f"{code} is not the code that was bundled: its sha256 differs from the manifest's")
    return manifest


def digest_of(bento: Path) -> str:
    """Of what the bento's manifest says."""
    return "sha256:" + hashlib.sha256((bento / "src" / "artefact" / "manifest.json").read_bytes()).hexdigest()


def params_of(checkout: Path) -> dict:
    return yaml.safe_load((checkout / "params.yaml").read_text(encoding="utf-8"))


def _sync(folder: Path, deep: bool = True) -> None:
    """Waits until the folder, and all below it, is on disk."""
    for found in [*(folder.rglob("*") if deep else []), folder]:
        if not found.is_symlink():
            handle = os.open(found, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
