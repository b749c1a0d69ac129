"""Environments: what staging and production serve. Promote, roll back, look.

An environment is a small file to keep in git (deploy/environments/<name>.yaml: what is current, what was before) and a store of
bentos (.environments/<name>/bentos/<version>) with a link `current`, which the served process follows.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import yaml

from deploy.recommender import verified

KEPT = 10  # earlier bentos kept to roll back to


class GateError(Exception):
    """A bento may not be promoted: `reasons` says why, each with its setting."""

    def __init__(self, reasons: list[str]):
        super().__init__("the gate refuses this bento: " + "; ".join(reasons))
        self.reasons = reasons


class EnvironmentProblem(Exception):
    """There is no such environment, bento or earlier entry; the message says what to do."""


def environments(checkout: Path) -> list[str]:
    """The names of the environments that there are."""
    return yaml.safe_load((checkout / "params.yaml").read_text(encoding="utf-8"))["environments"]


class Environment:
    """One environment of a checkout.

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
        """{"current": entry or None, "previous": [entries, newest first]}.

        Raises:
            EnvironmentProblem: the file and what is served differ, as after git or DVC brought an older file back.
        """
        entries = {"current": None, "previous": []}
        if self.file.exists():
            entries = yaml.safe_load(self.file.read_text(encoding="utf-8"))
        noted = entries["current"]["version"] if entries["current"] else None
        served = Path(os.readlink(self.link)).name if self.link.is_symlink() else None
        if noted != served:
            raise EnvironmentProblem(
                f"{self.file.relative_to(self.checkout)} names {noted or 'nothing'}, but {served or 'nothing'} is served; "
                f"bring the file back (git checkout or git stash), or remove it and {self.store.relative_to(self.checkout)} to start anew"
            )
        return entries

    def promote(self, bento: Path, *, who: str, why: str, experiment: str | None = None, force: bool = False) -> dict:
        """Makes this bento the current one, if the gate lets it through or it is forced; returns its entry.

        Promoting what is current already changes nothing. A forced entry keeps the gate's objections.

        Raises:
            GateError: the gate refuses. EnvironmentProblem: no bento there.
            deploy.recommender.ArtefactError: the bento's artefact is damaged.
        """
        if not (bento / "bento.yaml").exists():
            raise EnvironmentProblem(f"{bento} is no bento; make one with `dvc repro`, or name a run of Airflow")
        manifest = verified(bento / "src" / "artefact")
        with self._locked():
            entries = self.entries()
            current = entries["current"]
            if current and current["version"] == manifest["version"]:
                return current
            objections = self.objections(manifest)
            if objections and not force:
                raise GateError(objections)
            version = manifest["version"]
            self._copy(bento, version)
            entry = {
                "bento": f"pushcart:{version}",
                "version": version,
                "digest": "sha256:" + hashlib.sha256((bento / "src" / "artefact" / "manifest.json").read_bytes()).hexdigest(),
                "experiment": experiment,
                "who": who,
                "when": datetime.now(UTC).isoformat(timespec="seconds"),
                "why": why,
            }
            if objections:
                entry["forced_past"] = objections
            previous = [e for e in [current, *entries["previous"]] if e and e["version"] != version]
            self._point_to({"current": entry, "previous": previous[:KEPT]})
            self._tag(entry)
            self._drop_old(previous[KEPT:])
        return entry

    def rollback(self, *, who: str, why: str) -> dict:
        """Makes the previous bento the current one again; returns its entry.

        Raises:
            EnvironmentProblem: there is no previous one, or its bento is gone.
        """
        with self._locked():
            entries = self.entries()
            if not entries["previous"]:
                raise EnvironmentProblem(f"{self.name} has nothing to roll back to")
            entry, *older = entries["previous"]
            verified(self.store / "bentos" / entry["version"] / "src" / "artefact")
            entry = entry | {"who": who, "when": datetime.now(UTC).isoformat(timespec="seconds"), "why": f"rollback: {why}"}
            self._point_to({"current": entry, "previous": older})
        return entry

    def objections(self, manifest: dict) -> list[str]:
        """What the gate (settings `gate` of params.yaml) has against a bento with this manifest."""
        gate = yaml.safe_load((self.checkout / "params.yaml").read_text(encoding="utf-8"))["gate"]
        metrics, parity, quality = manifest["metrics"], manifest["parity"], manifest["quality"]
        ndcg = metrics["test"]["ndcg@10"] * manifest["compression"]["ndcg_kept"]
        needed = metrics["popularity"]["ndcg@10"] * (1 + gate["min_gain_over_popularity"])
        found = []
        if ndcg <= needed:
            found.append(f"NDCG@10 {ndcg:.4f} is not above popularity's {needed:.4f} (gate.min_gain_over_popularity)")
        served = self._served()
        if served and served["data"]["source"] == manifest["data"]["source"]:
            floor = (
                served["metrics"]["test"]["ndcg@10"] * served["compression"]["ndcg_kept"] * (1 - gate["max_drop_from_production"])
            )
            if ndcg < floor:
                found.append(f"NDCG@10 {ndcg:.4f} is below {floor:.4f}, what {self.name} has less gate.max_drop_from_production")
        if parity["max_score_error"] > gate["max_parity_error"]:
            found.append(f"ONNX differs from torch by {parity['max_score_error']:.2g} (gate.max_parity_error)")
        if not (quality["passed"] and quality["verified"]):
            found.append("its data did not pass the checks")
        return found

    def _served(self) -> dict | None:
        current = self.entries()["current"]
        artefact = self.store / "bentos" / current["version"] / "src" / "artefact" if current else None
        return verified(artefact) if artefact and artefact.exists() else None

    def _copy(self, bento: Path, version: str) -> None:
        target = self.store / "bentos" / version
        partial = target.with_name(f".{version}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(bento, partial)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)

    def _point_to(self, entries: dict) -> None:
        """Swaps the link, then the file; each swap is one rename."""
        link = self.store / ".current.partial"
        link.unlink(missing_ok=True)
        link.symlink_to(Path("bentos") / entries["current"]["version"])
        os.replace(link, self.link)
        comment = (
            f"# What {self.name} serves. Written by pushcart promote and rollback; commit it to keep the history in git log.\n"
        )
        partial = self.file.with_name(f".{self.file.name}.partial")
        partial.write_text(comment + yaml.safe_dump(entries, sort_keys=False, allow_unicode=True), encoding="utf-8")
        os.replace(partial, self.file)

    def _tag(self, entry: dict) -> None:
        """A git tag on the experiment's commit, from which the model can be made again."""
        if not entry["experiment"]:
            return
        refs = subprocess.run(
            ["git", "for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{entry['experiment']}"],
            cwd=self.checkout, capture_output=True, text=True,
        ).stdout.split()  # fmt: skip
        if refs:
            subprocess.run(
                ["git", "tag", "--force", f"{self.name}-{entry['version']}", refs[-1]],
                cwd=self.checkout,
                check=True,
                capture_output=True,
            )

    def _drop_old(self, entries: list[dict]) -> None:
        for entry in entries:
            shutil.rmtree(self.store / "bentos" / entry["version"], ignore_errors=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.store.mkdir(parents=True, exist_ok=True)
        with (self.store / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
