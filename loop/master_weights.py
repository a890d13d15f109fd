"""AdamW for bfloat16 parameters, with float32 master weights and moments.

In bfloat16 a second moment cannot move: 0.999 times a number rounds back to that number, so Adam's
step sizes stay those of the first batches. Here the forward and backward passes keep the speed of
bfloat16, and the optimizer keeps the precision of float32 (Micikevicius et al., arXiv 1710.03740).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch


class MasterWeightsAdamW(torch.optim.Optimizer):
    """Steps float32 copies of the parameters, then rounds them into the parameters, once per step."""

    def __init__(self, params: Iterable[torch.nn.Parameter], *, lr: float) -> None:
        self._params = list(params)
        super().__init__(self._params, {"lr": lr})
        self._masters = [torch.nn.Parameter(param.detach().float().clone()) for param in self._params]
        self._adamw = torch.optim.AdamW(self._masters, lr=lr, weight_decay=0.0)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One AdamW step at the learning rate that the scheduler set on this optimizer."""
        loss = None if closure is None else closure()
        for param, master in zip(self._params, self._masters, strict=True):
            master.grad = None if param.grad is None else param.grad.float()
        self._adamw.param_groups[0]["lr"] = self.param_groups[0]["lr"]
        self._adamw.step()
        for param, master in zip(self._params, self._masters, strict=True):
            param.copy_(master)
        return loss
