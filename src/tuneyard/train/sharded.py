"""Training with weights sharded over the processes (PyTorch's FSDP 2), and checkpoints that are whole.

A checkpoint has the files of any other: the whole weights and the whole optimizer state, written by the main process.
So a resume does not depend on the number of processes, and the published files are served as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from tuneyard.train.private import mark_sharded
from tuneyard.train.trainer import SFTTrainer

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
_SHARED = StateDictOptions(full_state_dict=True, strict=False)


class ShardedTrainer(SFTTrainer):
    """`SFTTrainer` whose model is sharded over all processes; see there for its arguments."""

    network: Any
    _whole: dict[str, torch.Tensor] | None = None

    def create_accelerator_and_postprocess(self) -> None:
        """Make the accelerator, which shards weights on the CPU too; accelerate itself does so on devices only."""
        super().create_accelerator_and_postprocess()
        state: Any = self.accelerator.state
        if state.distributed_type == DistributedType.FSDP:
            return
        options: Any = self.args.fsdp_plugin_args
        plugin = FullyShardedDataParallelPlugin(**options)
        if state.mixed_precision != "no":
            plugin.set_mixed_precision(state.mixed_precision)
        state.fsdp_plugin = plugin
        mark_sharded()
        self.is_fsdp_enabled = True

    def gather(self) -> None:
        """Bring the whole weights to the main process, which may then save them by itself; called by every process."""
        super().gather()
        self._whole = self._gathered()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the whole weights; with `gather` before it, the main process alone may call it."""
        whole = self._gathered() if self._whole is None else self._whole
        if self.args.should_save:
            self._save(output_dir, state_dict=whole)

    def whole_state(self) -> dict[str, torch.Tensor]:
        """Return the weights that `gather` collected."""
        assert self._whole is not None, "gather is called first"
        return self._whole

    def _gathered(self) -> dict[str, torch.Tensor]:
        tied: set[str] = set(getattr(self.network, "all_tied_weights_keys", None) or ())
        whole: dict[str, Any] = get_model_state_dict(self.network, options=WHOLE)
        return {name: weight for name, weight in whole.items() if name not in tied}

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        state = get_optimizer_state_dict(self.network, self._inner_optimizer(), options=WHOLE)
        if self.args.should_save:
            torch.save(self._by_number(state), Path(output_dir) / "optimizer.pt")
            scheduler: Any = self.lr_scheduler
            torch.save(scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        del model
        state: dict[str, Any] = {}
        for file in sorted(Path(resume_from_checkpoint).glob("*.safetensors")):
            state |= load_file(file)
        set_model_state_dict(self.network, state, options=_SHARED)

    def _load_best_model(self) -> None:
        assert self.state.best_model_checkpoint is not None, "the Trainer calls it only if there is one"
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        state = torch.load(Path(checkpoint) / "optimizer.pt", map_location="cpu", weights_only=True)
        set_optimizer_state_dict(self.network, self._inner_optimizer(), self._by_name(state), options=_SHARED)
        scheduler: Any = self.lr_scheduler
        scheduler.load_state_dict(torch.load(Path(checkpoint) / "scheduler.pt", weights_only=True))

    def _by_number(self, state: Any) -> dict[str, Any]:
        """Number the parameters of a state as an optimizer of one process does, where FSDP has their names."""
        numbers = {name: number for number, name in enumerate(self._trained_names())}
        groups = [{**group, "params": [numbers[name] for name in group["params"]]} for group in state["param_groups"]]
        return {"state": {numbers[name]: kept for name, kept in state["state"].items()}, "param_groups": groups}

    def _by_name(self, state: Any) -> dict[str, Any]:
        names = self._trained_names()
        groups = [{**group, "params": [names[number] for number in group["params"]]} for group in state["param_groups"]]
        return {"state": {names[number]: kept for number, kept in state["state"].items()}, "param_groups": groups}

    def _trained_names(self) -> list[str]:
        """Names of the parameters in the optimizer's order."""
        names = {id(weight): name for name, weight in self.network.named_parameters()}
        return [names[id(weight)] for group in self._inner_optimizer().param_groups for weight in group["params"]]

    def _inner_optimizer(self) -> torch.optim.Optimizer:
        optimizer: Any = self.optimizer
        return getattr(optimizer, "optimizer", optimizer)
