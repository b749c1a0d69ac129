"""dvc.yaml as Airflow tasks: a task a stage, in the order that their files impose, run as the stage's `meta.airflow` says.

Reads YAML and nothing else; imports no machine-learning library and no DVC. A stage added to dvc.yaml appears as a task by
itself. Parsing (parse, upstream) knows no operator; how a stage becomes a task is the caller's (render's `make`). Understood of dvc.yaml: stages with cmd, deps, outs, metrics, plots, desc, meta; `foreach` and `matrix`; `${...}`
from params.yaml, `vars` and the item of a loop (https://dvc.org/doc/user-guide/project-structure/dvcyaml-files).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import product
from pathlib import Path, PurePosixPath

import yaml
from airflow.sdk import BaseOperator

TEMPLATE = re.compile(r"\$\{\s*([\w.\[\]-]+)\s*\}")
POLICY = {"retries", "retry_delay", "max_retry_delay", "timeout", "queue", "pool", "priority_weight"}
Make = Callable[["Stage", dict], BaseOperator]  # a stage and the arguments of every operator that it asks for


class GraphError(Exception):
    """dvc.yaml cannot be rendered; the message names the stage."""


@dataclass(frozen=True)
class Stage:
    """One stage of dvc.yaml, loops unrolled."""

    name: str  # as DVC calls it: `train`, `train@small`
    desc: str
    command: str
    deps: tuple[str, ...]
    outs: tuple[str, ...]
    policy: dict = field(default_factory=dict)  # meta.airflow

    @property
    def task_id(self) -> str:
        """The name with what Airflow does not allow in a task's replaced."""
        return re.sub(r"[^\w.-]", "-", self.name)


def parse(dvc_yaml: Path) -> list[Stage]:
    """The stages of a dvc.yaml, in the order of the file.

    Raises:
        GraphError: a template names nothing, a policy is unknown, or two stages write the same file.
    """
    document = yaml.safe_load(dvc_yaml.read_text(encoding="utf-8"))
    context = _context(dvc_yaml.parent, document.get("vars", []))
    stages = []
    for name, spec in (document.get("stages") or {}).items():
        for suffix, values in _loops(name, spec, context):
            body = spec.get("do", spec) if "foreach" in spec else spec
            stages.append(_stage(name + suffix, body, context | values))
    writers: dict[str, str] = {}
    for stage in stages:
        for out in stage.outs:
            if out in writers:
                raise GraphError(f"stages {writers[out]} and {stage.name} both write {out}")
            writers[out] = stage.name
    return stages


def upstream(stages: list[Stage]) -> dict[str, set[str]]:
    """For each stage the names of those that write what it reads (a file, a folder, or something inside one)."""
    return {
        s.name: {o.name for o in stages if o is not s and any(_overlap(dep, out) for dep in s.deps for out in o.outs)}
        for s in stages
    }


def render(dvc_yaml: Path, make: Make) -> dict[str, BaseOperator]:
    """Makes a task a stage, inside the current DAG, and connects them.

    Returns:
        The tasks by stage name.
    """
    stages = parse(dvc_yaml)
    tasks = {stage.name: make(stage, {"task_id": stage.task_id, "doc_md": _doc(stage)} | _airflow(stage)) for stage in stages}
    for name, before in upstream(stages).items():
        for earlier in sorted(before):
            tasks[earlier] >> tasks[name]
    return tasks


def ends(tasks: dict[str, BaseOperator]) -> tuple[list[BaseOperator], list[BaseOperator]]:
    """The tasks that nothing comes before, and those that nothing follows."""
    return [t for t in tasks.values() if not t.upstream_list], [t for t in tasks.values() if not t.downstream_list]


def _airflow(stage: Stage) -> dict:
    """meta.airflow as the arguments of an operator; retries back off, doubling up to max_retry_delay (600 s)."""
    policy = dict(stage.policy)
    arguments = {k: policy[k] for k in ("retries", "queue", "pool", "priority_weight") if k in policy}
    if "timeout" in policy:
        arguments["execution_timeout"] = timedelta(seconds=policy["timeout"])
    if policy.get("retries"):
        arguments["retry_delay"] = timedelta(seconds=policy.get("retry_delay", 30))
        arguments["retry_exponential_backoff"] = 2
        arguments["max_retry_delay"] = timedelta(seconds=policy.get("max_retry_delay", 600))
    return arguments


def _doc(stage: Stage) -> str:
    listed = [("Reads", stage.deps), ("Writes", stage.outs)]
    lines = [f"**{stage.desc or stage.name}**", "", f"`{stage.command}`", ""]
    return "\n".join(lines + [f"- {title}: {', '.join(f'`{p}`' for p in paths) or 'nothing'}" for title, paths in listed])


def _context(folder: Path, variables: list) -> dict:
    """What `${...}` may name: params.yaml, the files listed in `vars`, and the values written there."""
    context: dict = {}
    for source in ["params.yaml", *variables]:
        if isinstance(source, dict):
            context |= source
        elif (folder / source).exists():
            context |= yaml.safe_load((folder / source).read_text(encoding="utf-8")) or {}
        elif source != "params.yaml":
            raise GraphError(f"vars: {source} is not there")
    return context


def _loops(name: str, spec: dict, context: dict) -> list[tuple[str, dict]]:
    """Suffix and values of each turn of a stage's loop; one turn without either where it has none."""
    if "foreach" in spec:
        over = _resolve(spec["foreach"], context, name)
        if isinstance(over, dict):
            return [(f"@{key}", {"key": key, "item": value}) for key, value in over.items()]
        return [(f"@{value if not isinstance(value, dict) else i}", {"item": value, "key": i}) for i, value in enumerate(over)]
    if "matrix" in spec:
        axes = {axis: _resolve(values, context, name) for axis, values in spec["matrix"].items()}
        turns = []
        for chosen in product(*(list(enumerate(values)) for values in axes.values())):
            labels = [
                str(v) if not isinstance(v, dict | list) else f"{axis}{i}" for axis, (i, v) in zip(axes, chosen, strict=True)
            ]
            turns.append(("@" + "-".join(labels), {"item": {axis: v for axis, (_, v) in zip(axes, chosen, strict=True)}}))
        return turns
    return [("", {})]


def _stage(name: str, spec: dict, context: dict) -> Stage:
    def paths(*sections: str) -> tuple[str, ...]:
        entries = [e for s in sections for e in spec.get(s) or []]
        names = [next(iter(e)) if isinstance(e, dict) else e for e in entries]
        return tuple(str(PurePosixPath(str(_resolve(n, context, name)))) for n in names)

    if "cmd" not in spec:
        raise GraphError(f"stage {name}: no cmd")
    command = spec["cmd"] if isinstance(spec["cmd"], str) else " && ".join(spec["cmd"])
    policy = (spec.get("meta") or {}).get("airflow") or {}
    unknown = set(policy) - POLICY
    if unknown:
        raise GraphError(
            f"stage {name}: meta.airflow: unknown {', '.join(sorted(unknown))}; it may have {', '.join(sorted(POLICY))}"
        )
    outs = paths("outs", "metrics", "plots")
    return Stage(name, spec.get("desc", ""), str(_resolve(command, context, name)), paths("deps"), outs, policy)


def _resolve(value, context: dict, stage: str):
    """Fills `${...}` in; a string that is one template alone keeps the type of what it names."""
    if not isinstance(value, str):
        return value
    whole = TEMPLATE.fullmatch(value)
    if whole:
        return _lookup(whole[1], context, stage)
    return TEMPLATE.sub(lambda match: str(_lookup(match[1], context, stage)), value)


def _lookup(path: str, context: dict, stage: str):
    value = context
    for key in re.findall(r"[\w-]+", path):
        try:
            value = value[int(key)] if isinstance(value, list) else value[key]
        except (KeyError, IndexError, ValueError, TypeError):
            raise GraphError(f"stage {stage}: ${{{path}}} names nothing in params.yaml, vars or the loop") from None
    return value


def _overlap(dep: str, out: str) -> bool:
    one, other = PurePosixPath(dep), PurePosixPath(out)
    return one == other or other in one.parents or one in other.parents
