"""Steps of training on a GPU as one launch each: a CUDA graph for each shape that batches have (NVIDIA, "CUDA Graphs").

A step of a small network is some hundred kernels, and Python takes longer to launch them than the GPU to run them.
"""

import torch
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor, nn

from pipelines.stage import log


class CapturedSteps(SingleDeviceStrategy):
    """Lightning's strategy for one device, whose whole step (forward, backward, clipping, update) is captured once for each shape of batches and
    launched from then on. Draws, learning rate and weights are read at each launch, so steps are what they would be without.

    The first batch of a shape takes an ordinary step, in which libraries set themselves up. Where a step cannot be captured (a family whose
    launches follow the data), ordinary ones go on, and one line says so.

    Needs a learner whose static_shapes is true, and Lightning's automatic optimisation without accumulation or a gradient scaler.
    """

    def __init__(self, device: torch.device):
        super().__init__(device)
        self.graphs: dict[tuple, tuple[torch.cuda.CUDAGraph, list[Tensor]]] = {}
        self.met: set[tuple] = set()
        self.possible = device.type == "cuda"

    def setup(self, trainer) -> None:
        super().setup(trainer)
        if self.possible:
            self.stream, self.pool = torch.cuda.Stream(self.root_device), torch.cuda.graph_pool_handle()
            self.rate, self.loss = (torch.zeros((), device=self.root_device) for _ in range(2))

    def training_step(self, batch: tuple, index: int) -> Tensor:
        """All of the step; its loss, from which nothing is left to be done."""
        shape = tuple(tuple(tensor.shape) for tensor in tensors(batch))
        if self.possible and shape in self.met and shape not in self.graphs:
            self.capture(shape, batch, index)
        self.met.add(shape)
        if shape not in self.graphs:
            return self.apart(batch, index)
        graph, inputs = self.graphs[shape]
        for held, given in zip(inputs, tensors(batch), strict=True):
            held.copy_(given)
        self.rate.fill_(self.optimizers[0].param_groups[0]["lr"])
        graph.replay()
        return self.loss

    def backward(self, closure_loss: Tensor, *args, **kwargs) -> Tensor:
        """Done."""
        return closure_loss

    def optimizer_step(self, optimizer: torch.optim.Optimizer, closure, model: nn.Module | None = None, **kwargs) -> Tensor:
        """Done in the closure, by training_step."""
        return closure()

    def step(self, batch: tuple, index: int) -> Tensor:
        """An ordinary step."""
        [optimiser] = self.optimizers
        optimiser.zero_grad()
        loss = super().training_step(batch, index)
        with torch.autocast(self.root_device.type, enabled=False):
            loss.backward()
        learnt = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(learnt, self.lightning_module.trainer.gradient_clip_val)
        optimiser.step()
        return loss.detach()

    def apart(self, batch: tuple, index: int) -> Tensor:
        """An ordinary step on the stream on which others are captured: what libraries set up belongs to a stream."""
        if not self.possible:
            return self.step(batch, index)
        here = torch.cuda.current_stream(self.root_device)
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            loss = self.step(batch, index)
        here.wait_stream(self.stream)
        return loss

    def capture(self, shape: tuple, batch: tuple, index: int) -> None:
        """Records a step of batches of this shape, without taking it."""
        [optimiser], graph = self.optimizers, torch.cuda.CUDAGraph()
        inputs = [tensor.clone() for tensor in tensors(batch)]
        rates = [group["lr"] for group in optimiser.param_groups]
        optimiser.zero_grad()
        try:
            for group in optimiser.param_groups:
                group |= {"lr": self.rate, "capturable": True}
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                self.loss.copy_(self.step(filled(batch, iter(inputs)), index))
            self.graphs[shape] = graph, inputs
        except (RuntimeError, NotImplementedError) as error:
            self.possible = False
            self.graphs.clear()
            log.warning(
                "train: a step cannot be launched as one (%s); each of its operations is launched by itself",
                str(error).splitlines()[0],
            )
        finally:
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group |= {"lr": rate, "capturable": False}
            optimiser.zero_grad()


def tensors(batch: tuple) -> list[Tensor]:
    """The tensors of a batch of nested tuples."""
    return [tensor for part in batch for tensor in ([part] if isinstance(part, Tensor) else tensors(part))]


def filled(batch: tuple, values) -> tuple:
    """A batch of the same structure of other tensors, in the order of tensors()."""
    parts = [next(values) if isinstance(part, Tensor) else filled(part, values) for part in batch]
    return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)
