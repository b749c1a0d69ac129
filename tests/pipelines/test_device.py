"""One place decides the device: a second one is faked, and whatever mixes the two is refused, as a GPU would.

`elsewhere` tags tensors that were sent to it. Operations on tensors of both are refused; so is reading a tagged one into NumPy.
"""

import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from benchmarks.gpu import SETTINGS, StopAt, ranked, tiny
from models.rankers.two_stage import SecondStage, TwoStage
from models.retrieval.evidence import Evidence
from pipelines import machine
from pipelines.learning import choices, device, fitting
from pipelines.learning.ranking import SAMPLE, ndcg_by_blend, task_probabilities

ELSEWHERE = torch.device("cuda")


class Elsewhere(TorchFunctionMode):
    """While active, torch has a GPU, which computes on the CPU."""

    def __init__(self):
        self.tagged: dict[int, weakref.ref] = {}

    def there(self, tensor: torch.Tensor) -> bool:
        found = self.tagged.get(id(tensor))
        return found is not None and found() is tensor

    def tag(self, tensor: torch.Tensor) -> torch.Tensor:
        self.tagged[id(tensor)] = weakref.ref(tensor)
        return tensor

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if func == torch.Tensor.device.__get__:
            return ELSEWHERE if self.there(args[0]) else func(*args)
        if func == torch.Tensor.is_cuda.__get__:
            return self.there(args[0])
        if name in ("to", "cuda", "cpu"):
            wanted = [a for a in (*args[1:], *kwargs.values()) if isinstance(a, str | torch.device)]
            kind = torch.device(wanted[0]).type if wanted else {"cuda": "cuda", "cpu": "cpu"}.get(name)
            kept = [a for a in (*args[1:], *kwargs.values()) if isinstance(a, torch.dtype | torch.Tensor)]
            moved = func(args[0], *kept) if kept else args[0].clone()
            there = self.there(args[0]) if kind is None else kind == "cuda"
            return self.tag(moved) if there else moved
        if name in ("numpy", "__array__") and self.there(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if func == torch.Tensor.data.__set__:
            func(*args)
            if self.there(args[1]):
                self.tag(args[0])
            return None
        if name == "_has_compatible_shallow_copy_type":  # nn.Module.to asks it of a parameter and its copy
            return func(*args)
        made_there = kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda"
        if made_there:
            kwargs["device"] = "cpu"
        seen = [a for a in _tensors((args, kwargs)) if a.ndim or self.there(a)]
        there = [self.there(a) for a in seen]
        if any(there) and not all(t or not a.ndim for t, a in zip(there, seen, strict=True)):
            raise RuntimeError(f"Expected all tensors to be on the same device, but found at least two devices ({name})")
        result = func(*args, **kwargs)
        if any(there) or made_there:
            for tensor in _tensors(result):
                self.tag(tensor)
        return result


def _tensors(value) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for v in value.values() for t in _tensors(v)]
    if isinstance(value, list | tuple):
        return [t for v in value for t in _tensors(v)]
    return []


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, 1 << 30))
    return Elsewhere()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):
    """Models of tiny data, trained on the CPU: a network and two stages."""
    data, settings = tiny(), SETTINGS | {"accelerator": "cpu", "epochs": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("trained"))
        network = fitting.learn(settings | {"model": "sasrec", "transition_prior": False}, data)[0]
        both = fitting.learn(settings | {"model": "fusion"}, data)[0]
    return data, network, both


def test_the_fake_refuses_what_a_gpu_refuses(elsewhere: Elsewhere):
    with elsewhere:
        there, here = torch.ones(3).to("cuda"), torch.ones(3)
        assert there.device.type == "cuda"
        with pytest.raises(RuntimeError, match="same device"):
            there + here
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        assert (there * 2).cpu().numpy().tolist() == [2, 2, 2]


def test_a_trained_network_is_finished_where_it_is(elsewhere: Elsewhere, trained: tuple):
    data, network, _ = trained
    with elsewhere:
        moved = network.to("cuda")
        choices.finish(moved, data, prior=True, weight=0.5)
        choices.fit_prior(moved, data)  # the step after which every training on a GPU died
        assert isinstance(moved.prior, Evidence)
        assert elsewhere.there(moved.prior.counts.weights)
        assert 0 <= ranked(moved, data) <= 1
        moved.cpu()


def test_two_stages_are_measured_where_they_are(elsewhere: Elsewhere, trained: tuple):
    data, _, both = trained
    with elsewhere:
        model = both.to("cuda")
        assert isinstance(model, TwoStage)
        assert isinstance(model.second, SecondStage)
        assert set(ndcg_by_blend(model, data.valid.sample(SAMPLE), (0.0, 1.0))) == {0.0, 1.0}
        probability = task_probabilities(model, data.full, data.impressions("test"))
        assert np.isfinite(probability).all()
        model.cpu()


@pytest.mark.parametrize("name", ["popularity", "item_knn", "transitions", "ease"])
def test_item_models_are_ranked_where_they_are(elsewhere: Elsewhere, name: str):
    data = tiny()
    with elsewhere:
        assert ranked(choices.item_model(name, data)[0].to("cuda"), data) >= 0


def test_no_other_module_looks_for_a_gpu():
    root = Path(__file__).resolve().parents[2]
    files = [
        p
        for part in ("models", "pipelines")
        for p in (root / part).rglob("*.py")
        if p.name not in ("device.py", "captured.py", "graph.py", "settings.py")
    ]
    assert [p.name for p in files if "cuda" in p.read_text()] == []
    assert device.choose("cpu").type == "cpu"


@pytest.mark.parametrize(
    ("cpu", "expected"), [("fpu avx2 avx512_bf16", "bf16-softmax"), ("fpu avx2", "32-true"), (None, "32-true")]
)
def test_precision_is_decided_by_what_the_cpu_can_do(
    cpu: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    told = tmp_path / "cpuinfo"
    if cpu:
        told.write_text(f"processor: 0\nflags: {cpu}\n", encoding="utf-8")
    monkeypatch.setattr(device, "multiplies_bf16", lambda: machine.multiplies_bf16(told))
    assert device.precision("auto", torch.device("cpu")) == expected
    assert device.precision("auto", ELSEWHERE) == "32-true"
    assert device.precision("bf16-mixed", torch.device("cpu")) == "bf16-mixed"


def test_a_training_keeps_the_precision_with_which_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    data, settings = tiny(), SETTINGS | {"accelerator": "cpu", "model": "sasrec", "precision": "auto"}
    monkeypatch.setattr(device, "multiplies_bf16", lambda: True)
    with pytest.raises(KeyboardInterrupt):
        fitting.learn(settings, data, StopAt(1))
    monkeypatch.setattr(device, "multiplies_bf16", lambda: False)  # gone on with elsewhere
    shape = fitting.learn(settings, data)[1]
    assert shape["recipe"]["precision"] == "bf16-softmax"
    again = fitting.learn(settings, data.everything(), recipe=shape["recipe"])[1]
    assert again["recipe"]["precision"] == "bf16-softmax"
