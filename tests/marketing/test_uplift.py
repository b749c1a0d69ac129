"""Qini by its definition, decisions on trials whose truth is known, and the command on files of any kind."""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks import uplift as command
from marketing import uplift
from marketing.uplift import Trial, qini

HILLSTROM = Path(__file__).resolve().parents[3] / "shared" / "data" / "hillstrom"


def random_trial(count: int = 200, seed: int = 0) -> tuple[Trial, np.ndarray]:
    rng = np.random.default_rng(seed)
    treated = rng.random(count) < 0.4
    return Trial(rng.random((count, 2)), treated, (rng.random(count) < 0.3).astype(float), np.full(count, 0.4)), rng.integers(
        0, 9, count
    ) / 9


def slow_qini(data: Trial, score: np.ndarray, weight: np.ndarray) -> float:
    def area(values: np.ndarray) -> tuple[float, float]:
        points = [(0.0, 0.0)]
        for threshold in sorted(set(values), reverse=True):
            inside = values >= threshold
            each = weight * inside / np.where(data.treated, data.propensity, 1 - data.propensity)
            yes, no = each * data.treated, each * ~data.treated
            gain = yes @ data.outcome - (no @ data.outcome * yes.sum() / no.sum() if no.sum() else 0)
            points.append(((weight * inside).sum(), gain))
        sides = pairwise(points)
        return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in sides), points[-1][0] * points[-1][1] / 2

    mine, chance = area(score)
    best, _ = area(np.where(data.treated, data.outcome, -data.outcome))
    return (mine - chance) / (best - chance)


def shop_trial(effect: str, count: int = 12_000, seed: int = 1) -> tuple[Trial, np.ndarray]:
    """A trial in which one feature says who answers and another whom the message moves; and what it changes for each."""
    rng = np.random.default_rng(seed)
    features = rng.random((count, 4))
    treated = rng.random(count) < 0.5
    change = {"none": 0.0, "some": 0.25 * (features[:, 1] > 0.7) - 0.10 * (features[:, 1] < 0.3)}[effect]
    answers = np.clip(0.15 + 0.6 * features[:, 0] + change * treated, 0, 1)
    data, _ = uplift.trial(features, treated, (rng.random(count) < answers).astype(float))
    return data, np.broadcast_to(change, count)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer trees and resamples: as good on trials of few features."""
    monkeypatch.setitem(uplift.TREES, "n_estimators", 40)
    monkeypatch.setitem(uplift.TREES, "learning_rate", 0.1)
    monkeypatch.setattr(uplift, "SAMPLES", 100)


class TestQini:
    @pytest.mark.parametrize("seed", range(4))
    def test_by_its_definition(self, seed: int):
        data, score = random_trial(seed=seed)
        weight = np.random.default_rng(seed).integers(0, 3, len(score)).astype(float)
        assert qini(data, score) == pytest.approx(slow_qini(data, score, np.ones(len(score))))
        assert qini(data, score, weight) == pytest.approx(slow_qini(data, score, weight))

    def test_of_the_best_order_of_chance_and_of_the_worst(self):
        data, _ = random_trial(4000)
        best = np.where(data.treated, data.outcome, -data.outcome)
        assert qini(data, best) == pytest.approx(1)
        assert qini(data, np.zeros(len(best))) == pytest.approx(0)
        assert abs(qini(data, np.random.default_rng(5).random(len(best)))) < 0.1
        assert qini(data, -best) < -0.3

    def test_does_not_change_with_the_order_or_scale(self):
        data, score = random_trial()
        mixed = np.random.default_rng(1).permutation(len(score))
        assert qini(data.rows(mixed), score[mixed]) == pytest.approx(qini(data, score))
        assert qini(data, 7 * score - 3) == pytest.approx(qini(data, score))


class TestDecision:
    @pytest.mark.e2e
    def test_where_some_are_moved_uplift_pays(self):
        data, change = shop_trial("some")
        scores = uplift.out_of_fold(data)
        verdict = uplift.decide(data, scores)
        assert verdict.pays
        assert verdict.reason.startswith("send by uplift")
        assert {r.name for r in verdict.ranked} == {"response", *uplift.LEARNERS, uplift.MEAN}
        best = scores[verdict.best]
        assert np.corrcoef(best, change)[0, 1] > 0.7
        extra, low, high = uplift.money(data, best > 0.1, 10.0, 1.0)
        truth = float((change[best > 0.1] * 10 - 1).sum())
        assert low < truth < high
        assert low < extra < high

    def test_what_is_told_beside_qini(self):
        data, change = shop_trial("some", 20_000)
        scores = {"response": data.features[:, 0], "T": change, "S": np.zeros(len(change))}
        told = {r.name: r for r in uplift.decide(data, scores).ranked}
        alone = {r.name: r for r in uplift.decide(data, {name: scores[name] for name in ("response", "T")}).ranked}
        assert told["T"].auuc == alone["T"].auuc
        assert told["T"].tops == alone["T"].tops, "by the same resamples, in company or not"
        whole = data.outcome[data.treated].mean() - data.outcome[~data.treated].mean()
        assert told["S"].auuc == pytest.approx(whole / 2, abs=0.005), (
            "who are all alike bring half of it, on average over all shares"
        )
        assert told["T"].auuc_interval[0] > told["S"].auuc
        for top in told["T"].tops:  # three tenths of the people are moved by 0.25
            assert top.interval[0] < 0.25 < top.interval[1]
            assert top.uplift == pytest.approx(0.25, abs=0.06)

    @pytest.mark.e2e
    def test_where_nobody_is_moved_it_says_so(self):
        data, _ = shop_trial("none")
        verdict = uplift.decide(data, uplift.out_of_fold(data))
        assert not verdict.pays
        assert "does not pay here, send by response" in verdict.reason

    def test_treatment_that_follows_from_the_features_is_refused(self):
        rng = np.random.default_rng(0)
        features = rng.random((4000, 3))
        with pytest.raises(uplift.NotRandom, match="nearly surely"):
            uplift.trial(features, features[:, 0] > 0.5, rng.random(4000))

    def test_treatment_that_leans_on_the_features_is_weighed(self):
        rng = np.random.default_rng(0)
        features = rng.random((20_000, 3))
        chance = 0.3 + 0.4 * features[:, 0]
        treated = rng.random(20_000) < chance
        outcome = (rng.random(20_000) < 0.2 + 0.4 * features[:, 0] + 0.1 * treated).astype(float)
        data, auc = uplift.trial(features, treated, outcome)
        assert auc > 0.55
        assert np.abs(data.propensity - chance).mean() < 0.03
        everybody = np.ones(20_000, bool)
        plain = outcome[treated].mean() - outcome[~treated].mean()
        assert uplift.money(data, everybody, 1.0, 0.0)[0] / 20_000 == pytest.approx(0.1, abs=0.02)
        assert plain > 0.13


class TestCommand:
    def run(self, monkeypatch: pytest.MonkeyPatch, folder: Path, table: pl.DataFrame, *arguments: str) -> None:
        table.write_csv(folder / "trial.csv")
        base = ["uplift", "--data", str(folder / "trial.csv"), "--out", str(folder / "uplift.json"), "--treatment", "group"]
        monkeypatch.setattr(sys, "argv", [*base, *arguments])
        command.main()

    def table(self, effect: str = "some") -> pl.DataFrame:
        data, _ = shop_trial(effect, 6000)
        rng = np.random.default_rng(0)
        return pl.DataFrame(
            {
                "customer": [f"c{n}" for n in rng.permutation(len(data.treated))],
                "group": np.where(data.treated, "Mail, spring", "Nobody"),
                "bought": np.where(data.outcome > 0, "yes", "no"),
                "spent": data.outcome * 20 + data.treated * rng.random(len(data.treated)),
                "opened": data.treated & (rng.random(len(data.treated)) < 0.5),
                "city": rng.choice(["Bath", "York"], len(data.treated)),
                "shop": "one",
                "age": [None if n % 7 == 0 else float(n % 60) for n in range(len(data.treated))],
            }
            | {f"f{n}": data.features[:, n] for n in range(4)}
        )

    @pytest.mark.e2e
    def test_any_file_of_any_arms(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
        monkeypatch.setattr(command, "MOST", 5000)
        self.run(monkeypatch, tmp_path, self.table(), "--outcome", "bought", "--arm", "Mail, spring", "--cost", "0.1")
        said = capsys.readouterr().out
        assert "6,000 people; 5,000 of them are drawn" in said
        assert "arm 'Mail, spring' beside 'Nobody'" in said
        assert "features: city, age, f0, f1, f2, f3\n" in said
        for name, why in (
            ("customer", "names each person"),
            ("opened", "came after"),
            ("spent", "came after"),
            ("shop", "the same of everybody"),
        ):
            assert any(line.startswith(f"  not {name}: ") and why in line for line in said.splitlines()), name
        assert "send by uplift" in said
        assert "everybody" in said

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (["--outcome", "visits"], "--outcome visits: there is no such column; there are customer"),
            (["--outcome", "bought", "--arm", "Post"], "--arm Post: group has no such value"),
            (["--outcome", "bought", "--ignore", "town"], "--ignore town"),
            (["--outcome", "customer"], "must be a number or one of two"),
        ],
    )
    def test_what_cannot_be_done_is_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], reason: str
    ):
        with pytest.raises(SystemExit, match=reason):
            self.run(monkeypatch, tmp_path, self.table(), *arguments)
