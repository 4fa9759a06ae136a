"""What `train.private` takes for granted of transformers, accelerate and torch, checked on the libraries themselves."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch.distributed import distributed_c10d
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments

from tuneyard.train import private
from tuneyard.train.dpo import DPOTrainer
from tuneyard.train.sharded import ShardedTrainer
from tuneyard.train.trainer import SFTTrainer

SOURCE = Path(private.__file__).parent

PARAMETERS = {
    "_save_checkpoint": ["self", "model", "trial"],
    "_get_grad_norm": ["self", "model", "grad_norm"],
    "_load_best_model": ["self"],
    "_load_from_checkpoint": ["self", "resume_from_checkpoint", "model"],
    "_save_optimizer_and_scheduler": ["self", "output_dir"],
    "_load_optimizer_and_scheduler": ["self", "checkpoint"],
    "_save": ["self", "output_dir", "state_dict"],
    "_prepare_inputs": ["self", "inputs"],
}
"""Parameters of the methods that are overridden or called by them; the rest is passed on."""

CALLERS = {
    "_save_checkpoint": ["_maybe_log_save_evaluate"],
    "_maybe_log_save_evaluate": ["_run_epoch", "_run_epoch"],
    "_run_epoch": ["_inner_training_loop"],
    "_get_grad_norm": ["_run_epoch"],
    "_load_best_model": ["_finalize_training"],
    "_save_optimizer_and_scheduler": ["_save_checkpoint"],
    "_load_optimizer_and_scheduler": ["_prepare_for_training"],
}
"""Where transformers' Trainer calls the methods that are overridden, once per call."""


class Line(torch.nn.Module):
    """A model of one weight, whose loss is a number that differs from row to row."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        del labels
        return {"loss": (self.weight * x).sum()}


class Recorder(TrainerCallback):
    """Notes the private counters after each step, and sets them once when training begins."""

    def __init__(self, restore: tuple[float, float, int] | None = None) -> None:
        self.restore = restore
        self.trainer: Trainer
        self.counters: list[tuple[float, tuple[float, int]]] = []

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        if self.restore is not None:
            since, logged, step = self.restore
            private.restore_losses(self.trainer, since_last_log=since, logged=logged, last_logged_step=step)

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.counters.append((private.loss_since_last_log(self.trainer).item(), private.logged_loss(self.trainer)))


def arguments_for(folder: Path, **given: Any) -> TrainingArguments:
    """Return arguments for four steps of one row each, without a change of the weight."""
    fixed: dict[str, Any] = {"learning_rate": 0.0, "max_steps": 4, "per_device_train_batch_size": 1, "use_cpu": True}
    fixed |= {"report_to": [], "disable_tqdm": True, "train_sampling_strategy": "sequential"}
    return TrainingArguments(output_dir=str(folder), **fixed | given)


def trained(folder: Path, recorder: Recorder, *, resume: str | None = None) -> tuple[Trainer, float]:
    """Train on the rows 1, 2, 4 and 8; return the trainer and its `train_loss`."""
    rows: Any = [{"x": torch.tensor([float(2**number)])} for number in range(4)]
    arguments = arguments_for(folder, logging_steps=2, save_strategy="steps", save_steps=2)
    trainer = Trainer(Line(), arguments, train_dataset=rows, callbacks=[recorder])
    recorder.trainer = trainer
    return trainer, trainer.train(resume_from_checkpoint=resume).training_loss


def test_counters_hold_the_losses_between_and_of_logs(tmp_path: Path) -> None:
    recorder = Recorder()
    _, loss = trained(tmp_path, recorder)
    assert recorder.counters == [(1.0, (0.0, 0)), (3.0, (0.0, 0)), (4.0, (3.0, 2)), (12.0, (3.0, 2))]
    assert loss == 15 / 4


def test_restored_counters_survive_the_trainers_reset_and_count_all_steps(tmp_path: Path) -> None:
    trained(tmp_path, Recorder())
    checkpoint = str(tmp_path / "checkpoint-2")
    plain, loss = trained(tmp_path / "plain", Recorder(), resume=checkpoint)
    assert plain.state.log_history[-1]["train_loss"] == loss == 12 / 2, "the mean over the steps since the resume"
    restored, loss = trained(tmp_path / "restored", Recorder((0.5, 100.0, 1)), resume=checkpoint)
    logged = [row["loss"] for row in restored.state.log_history if "loss" in row and row["step"] == 4]
    assert logged == [pytest.approx((0.5 + 12) / 3, abs=1e-4)]
    assert loss == (100.0 + 0.5 + 12) / 4


def test_one_process_trains_on_one_accelerator_at_most(tmp_path: Path) -> None:
    arguments = arguments_for(tmp_path)
    assert arguments.n_gpu == 0
    private.use_one_accelerator(arguments)
    assert arguments.n_gpu == 0
    vars(arguments)["_n_gpu"] = 3
    assert arguments.n_gpu == 3
    private.use_one_accelerator(arguments)
    assert (arguments.n_gpu, arguments.train_batch_size) == (1, 1)


@pytest.fixture
def group() -> Iterator[Any]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield distributed_c10d._get_default_group()  # pyright: ignore[reportPrivateUsage]
    dist.destroy_process_group()


def test_the_timeout_of_an_existing_group_changes(group: Any) -> None:
    private.set_collective_timeout(77.0)
    assert group._get_backend(torch.device("cpu")).options._timeout == timedelta(seconds=77)


def test_the_device_of_collectives_is_known(group: Any) -> None:
    del group
    assert private.collective_device() == torch.device("cpu")


def test_torch_s_collectives_of_objects_use_the_replaced_unpickler(group: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    del group
    before: type[Any] = distributed_c10d._unpickler  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(distributed_c10d, "_unpickler", before)  # restored after the test
    loaded: list[Any] = []

    class Noting(before):
        def load(self) -> Any:
            loaded.append(super().load())
            return loaded[-1]

    private.replace_unpickler(Noting)
    boxes: list[Any] = [None]
    dist.all_gather_object(boxes, {"a": 1})
    assert boxes == loaded == [{"a": 1}]


def test_accelerate_takes_a_marked_process_for_one_of_fsdp() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        accelerator = Accelerator(cpu=True)
        assert accelerator.state.distributed_type == DistributedType.NO
        private.mark_sharded()
        assert accelerator.state.distributed_type == accelerator.distributed_type == DistributedType.FSDP
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def used_methods() -> set[str]:
    """Name the private methods of the Trainer that its subclasses define or call."""
    owned = {name for name in dir(Trainer) if name.startswith("_") and not name.startswith("__")}
    defined = {name for kind in (SFTTrainer, DPOTrainer, ShardedTrainer) for name in vars(kind)}
    nodes = [node for path in SOURCE.glob("*.py") for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    return owned & (defined | {node.attr for node in nodes if isinstance(node, ast.Attribute)})


def callers_in_trainer() -> dict[str, list[str]]:
    """Return, for each method of the Trainer, the methods of it that call it."""
    found: dict[str, list[str]] = {}
    (kind,) = ast.parse(textwrap.dedent(inspect.getsource(Trainer))).body
    assert isinstance(kind, ast.ClassDef)
    for method in kind.body:
        if isinstance(method, ast.FunctionDef):
            for node in ast.walk(method):
                match node:
                    case ast.Call(func=ast.Attribute(value=ast.Name(id="self"), attr=name)):
                        found.setdefault(name, []).append(method.name)
                    case _:
                        pass
    return found


def test_every_private_method_of_the_trainer_in_use_is_listed() -> None:
    assert used_methods() == set(private.TRAINER_METHODS)


def test_private_methods_of_the_trainer_keep_their_parameters() -> None:
    found = {name: list(inspect.signature(getattr(Trainer, name)).parameters) for name in PARAMETERS}
    assert found == PARAMETERS


def test_the_trainer_calls_what_is_overridden_where_it_did() -> None:
    callers = callers_in_trainer()
    assert {name: callers.get(name) for name in CALLERS} == CALLERS
    assert "_prepare_for_training" in callers["_load_from_checkpoint"]


def test_an_epoch_is_the_last_one_when_training_is_to_stop(tmp_path: Path) -> None:
    class Stopping(Trainer):
        epochs = 0

        def _run_epoch(self, **kwargs: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            assert isinstance(kwargs["train_dataloader"], DataLoader)
            self.epochs += 1
            self.control.should_training_stop = True

    rows: Any = [{"x": torch.ones(1)}]
    trainer = Stopping(Line(), arguments_for(tmp_path), train_dataset=rows)
    trainer.train()
    assert trainer.epochs == 1


def test_no_other_module_of_train_touches_private_state_of_a_library(tmp_path: Path) -> None:
    trees = {path: ast.walk(ast.parse(path.read_text(encoding="utf-8"))) for path in SOURCE.glob("*.py")}
    nodes = [(path, node) for path, tree in trees.items() if path.name != "private.py" for node in tree]
    own = {node.name for _, node in nodes if isinstance(node, ast.FunctionDef)}
    read: list[tuple[str, int, str]] = []
    for path, node in nodes:
        if not isinstance(node, ast.Attribute) or not node.attr.startswith("_") or node.attr.startswith("__"):
            continue
        if isinstance(node.ctx, ast.Store):
            own.add(node.attr)
        read.append((path.name, node.lineno, node.attr))
    assert not own & set(vars(trained(tmp_path, Recorder())[0])), "a private name of the Trainer is set"
    allowed = own | set(private.TRAINER_METHODS) | {"_exit"}  # os._exit
    assert [each for each in read if each[2] not in allowed] == []
