"""Which settings does the validation part like best? A search over `train` of params.yaml that can be stopped and gone on with.

    python -m benchmarks.search --data ../shared/data/amazon-beauty --trials 40
    python -m benchmarks.search --data ../shared/data/amazon-beauty --model gru --trials 20

Optuna's TPE sampler proposes (Bergstra et al. 2011), the validation NDCG@10 decides; the test part is not read. Trials that do worse
after an epoch than most did at theirs are given up. The study stands in data/search/<data set>-<model>.log: the same command again adds so many
trials to it, and a trial that was broken off counts for nothing. Prints the trials as they end, and the best settings as YAML; writes
reports/search/<data set>-<model>.json.
"""

import argparse
import logging
import shutil
from contextlib import chdir
from pathlib import Path

import yaml

from benchmarks.quality import ROOT, dataset, link_code, prepared
from pipelines.stage import write_json

OUT = ROOT  # where data and reports stand

SPACE = {  # setting -> how it is proposed
    "width": lambda t: t.suggest_categorical("width", [64, 96, 128, 192]),
    "layers": lambda t: t.suggest_int("layers", 1, 3),
    "heads": lambda t: t.suggest_categorical("heads", [1, 2, 4]),
    "dropout": lambda t: t.suggest_float("dropout", 0.1, 0.5, step=0.1),
    "event_dropout": lambda t: t.suggest_float("event_dropout", 0.0, 0.2, step=0.1),
    "id_dropout": lambda t: t.suggest_float("id_dropout", 0.0, 0.2, step=0.1),
    "learning_rate": lambda t: t.suggest_float("learning_rate", 5e-4, 5e-3, log=True),
    "weight_decay": lambda t: t.suggest_float("weight_decay", 0.01, 0.2, log=True),
    "batch_users": lambda t: t.suggest_categorical("batch_users", [32, 64, 128]),
    "gated": lambda t: t.suggest_categorical("gated", [False, True]),
}
ONLY = {"gated": ("sasrec",), "heads": ("sasrec", "hstu")}  # settings that only these families read


def main() -> None:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--data", type=Path, required=True, help="file or folder, as make demo's DATA")
    cli.add_argument("--source", help="as make demo's SOURCE; told from the files if left out")
    cli.add_argument("--model", default="sasrec", help="a next-item network (train.model)")
    cli.add_argument("--trials", type=int, default=20, help="to add to those there are")
    cli.add_argument("--epochs", type=int, help="at most, for every trial; to try things out")
    chosen = cli.parse_args()
    if not chosen.data.exists():
        cli.error(f"--data {chosen.data} is not there")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    source, title = dataset(chosen.data, chosen.source)
    base = prepared(OUT / "data" / "quality" / title, source, chosen.data.resolve(), "leave_one_out")
    name = f"{title}-{chosen.model}"
    log = OUT / "data" / "search" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=name, storage=JournalStorage(JournalFileBackend(str(log))), load_if_exists=True, direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=len(log.read_bytes()) if log.exists() else 0),
        pruner=optuna.pruners.PercentilePruner(40.0, n_startup_trials=5, n_warmup_steps=2),
    )  # fmt: skip
    study.optimize(lambda trial: tried(trial, base, chosen.model, chosen.epochs), chosen.trials, callbacks=[report])
    best = study.best_trial
    trials = [
        {"number": t.number, "state": t.state.name.lower(), "valid_ndcg@10": t.value, "settings": t.params} for t in study.trials
    ]
    write_json(
        OUT / "reports" / "search" / f"{name}.json",
        {
            "dataset": title,
            "model": chosen.model,
            "best": {"valid_ndcg@10": best.value, "settings": best.params},
            "trials": trials,
        },
    )
    print(
        f"\nvalid NDCG@10 {best.value:.4f} of {len(trials)} trials, by\n"
        + yaml.safe_dump({"train": {"model": chosen.model} | best.params})
    )


def tried(trial, base: Path, model: str, epochs: int | None) -> float:
    """Trains with proposed settings in a folder of its own; the validation NDCG@10."""
    import optuna
    from pytorch_lightning.callbacks import Callback

    from pipelines.learning import fitting
    from pipelines.learning import prepared as histories
    from pipelines.learning.ranking import valid_ndcg

    class Watch(Callback):
        def on_validation_end(self, trainer, module) -> None:
            trial.report(float(trainer.callback_metrics["valid/ndcg@10"]), trainer.current_epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

    params = yaml.safe_load((base / "params.yaml").read_text(encoding="utf-8"))
    proposed = {k: propose(trial) for k, propose in SPACE.items() if model in ONLY.get(k, (model,))}
    params["train"] |= proposed | {"model": model} | ({"epochs": epochs} if epochs else {})
    folder = base / "search" / str(trial.number)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    link_code(folder)
    if not (folder / "data" / "prepared").exists():
        (folder / "data" / "prepared").symlink_to(base / "data" / "prepared")
    (folder / "params.yaml").write_text(yaml.safe_dump(params, allow_unicode=True), encoding="utf-8")
    try:
        with chdir(folder):
            data = histories.load()
            return valid_ndcg(fitting.learn(params["train"], data, Watch())[0], data.valid)
    finally:
        shutil.rmtree(folder)


def report(study, trial) -> None:
    value = "given up" if trial.value is None else f"{trial.value:.4f}"
    best = max((t.value for t in study.trials if t.value is not None), default=float("nan"))
    print(f"trial {trial.number}: {value}, {trial.params} (best {best:.4f})", flush=True)


if __name__ == "__main__":
    main()
