"""Steps taken by CapturedSteps are Lightning's own. What only a GPU shows, graphs themselves, benchmarks.gpu --walk shows there."""

import numpy as np
import pytest
import pytorch_lightning as lightning
import torch

from benchmarks.gpu import SETTINGS, tiny
from models.batches import Histories, HistoryData
from models.families import FAMILIES, build, loss_of
from models.losses import LOSSES
from models.training.learner import NextItem
from pipelines.learning.callbacks import Curves, StepSeed
from pipelines.learning.captured import CapturedSteps, filled, tensors


def learner_of(family: str, loss: str = "auto", **changed) -> NextItem:
    torch.manual_seed(1)
    data, settings = tiny(), SETTINGS | changed
    network = build(family, data.items, settings, torch.from_numpy(data.attributes))
    return NextItem(network, loss_of(family, loss), data.popularity, 16, 0.003, 0.01)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_same_weights_and_curves_as_by_lightnings_own_steps(precision: str):
    found = []
    for strategy in ("auto", CapturedSteps(torch.device("cpu"))):
        data, learner, curves = tiny(), learner_of("sasrec"), Curves()
        module = HistoryData(Histories(data.train, 12), data.valid, 12, 16, 0)
        trainer = lightning.Trainer(
            max_epochs=2, accelerator="cpu", devices=1, strategy=strategy, precision=precision, gradient_clip_val=0.5, logger=False,
            callbacks=[StepSeed(0), curves], enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(learner, module)
        assert trainer.global_step == 2 * len(module.train_dataloader())
        found.append((learner.state_dict(), curves.rows))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=0)
    assert found[0][1] == found[1][1]
    assert len(found[0][1]) == 2


@pytest.mark.parametrize(("family", "loss"), [*((f, "auto") for f in FAMILIES), *(("gru", loss) for loss in LOSSES)])
def test_padding_that_is_weighed_by_0_teaches_what_padding_left_out_does(family: str, loss: str):
    found = []
    for static in (False, True):
        learner = learner_of(family, loss, dropout=0.0, event_dropout=0.0, id_dropout=0.0)
        learner.static_shapes = static
        histories = Histories(tiny().train, 12)
        histories.static_shapes = static
        batch, target = histories[range(5)]
        assert batch.history.shape == (5, 12 if static else 9)
        torch.manual_seed(2)
        learner.objective(batch.history, batch.times, target).backward()
        found.append({name: p.grad for name, p in learner.network.named_parameters()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_batches_padded_to_few_lengths_hold_the_same():
    histories = Histories(tiny().train, 12)
    rows = [np.arange(20), np.arange(20, 23), np.arange(23, 80)]
    plain = list(histories.batches(rows))
    histories.static_shapes = True
    for one, other in zip(plain, histories.batches(rows), strict=True):
        assert tensors(other)[0].shape[1] in (4, 8, 12)
        for before, after in zip(tensors(one), tensors(other), strict=True):
            assert torch.equal(after[..., : before.shape[-1]], before)
            assert not after[..., before.shape[-1] :].any()


def test_a_batch_is_taken_apart_and_put_together():
    batch = Histories(tiny().train, 12)[range(3)]
    again = filled(batch, iter([t + 1 for t in tensors(batch)]))
    assert torch.equal(again[0].times, batch[0].times + 1)
    assert torch.equal(again[1], batch[1] + 1)
