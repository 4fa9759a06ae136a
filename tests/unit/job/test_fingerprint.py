"""All values but a list of keys that may change are in the fingerprint, and every field is checked."""

import types
import typing
from copy import deepcopy

import pytest

from lab.training import VALUES, changed
from tuneyard.checkpoints.record import check_fingerprint
from tuneyard.errors import ConflictError
from tuneyard.job.fingerprint import MAY_CHANGE, ROWS, assumed, fingerprint
from tuneyard.values import FinetuneValues, resolve_batch_sizes
from tuneyard.values.base import ClusterOnly, Values

CONFIG = "finetuning_config."


def of(values, base="b" * 64, total=None):
    read = FinetuneValues.model_validate(values)
    batch = read.finetuning_config.batchsize_conf
    sizes = resolve_batch_sizes(
        total or batch.total_train_batch_size, read.processes, batch.max_per_device_train_batch_size
    )
    return fingerprint(read, base, {"default-bucket/datasets/chat.jsonl": "d" * 64}, sizes)


def fields(model=FinetuneValues, prefix=""):
    """Every key of the values, however deep: its dotted path, and whether it is for clusters alone."""
    for name, field in model.model_fields.items():
        inner = [kind for kind in members(field.annotation) if isinstance(kind, type) and issubclass(kind, Values)]
        cluster = any(isinstance(mark, ClusterOnly) for mark in field.metadata)
        if inner and not cluster:
            for kind in inner:
                yield from fields(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", cluster


def members(kind):
    origin = typing.get_origin(kind)
    if origin is typing.Annotated:
        return members(typing.get_args(kind)[0])
    if origin in (typing.Union, types.UnionType):
        return [member for one in typing.get_args(kind) for member in members(one)]
    return [kind]


def whole():
    """Values in which every optional part is there, as a model without any check."""

    def build(model):
        given = {}
        for name, field in model.model_fields.items():
            inner = [kind for kind in members(field.annotation) if isinstance(kind, type) and issubclass(kind, Values)]
            given[name] = build(inner[0]) if inner else f"a value of {name}"
        return model.model_construct(**given)

    return build(FinetuneValues)


ALL = dict(fields())


def may_change(path):
    return any(path == key or path.startswith(f"{key}.") for key in MAY_CHANGE)


@pytest.fixture(scope="module")
def frozen():
    sizes = resolve_batch_sizes(4, 1, 2)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydantic's, for values of other types than the fields'
        return fingerprint(whole(), "b" * 64, {}, sizes)


@pytest.mark.parametrize("path", [path for path, cluster in ALL.items() if not cluster])
def test_every_key_is_in_the_fingerprint_or_may_change_for_a_reason(path, frozen):
    if may_change(path):
        assert path not in frozen or path in ("basemodel", CONFIG + "batchsize_conf.total_train_batch_size")
        return
    assert path in frozen, f"{path} decides what is computed, and a resume would not notice its change"


def test_keys_that_may_change_exist_and_have_a_reason():
    paths = set(ALL) | {path.rpartition(".")[0] for path in ALL}
    assert set(MAY_CHANGE) <= paths
    assert all(len(reason.split()) > 2 for reason in MAY_CHANGE.values())
    assert len(ALL) > 200


CHANGES = {
    CONFIG + "run_conf.model_args": {"attention_dropout": 0.3},
    CONFIG + "run_conf.trained_weights": "as-loaded",
    CONFIG + "training_args.average_tokens_across_devices": False,
    CONFIG + "training_args.metric_for_best_model": "loss",
    CONFIG + "training_args.greater_is_better": True,
    CONFIG + "training_args.load_best_model_at_end": True,
    CONFIG + "training_args.use_liger_kernel": True,
    CONFIG + "training_args.torch_compile": True,
    CONFIG + "training_args.tf32": True,
    CONFIG + "training_args.full_determinism": True,
    CONFIG + "training_args.learning_rate": 2e-2,
    CONFIG + "training_args.lr_scheduler_kwargs": {"num_cycles": 2},
    CONFIG + "peft_conf.peft_kwargs.lora_alpha": 9,
    CONFIG + "peft_conf.peft_kwargs.use_rslora": True,
    CONFIG + "data_conf.validation_data.ratio": 0.3,
    CONFIG + "data_conf.rows.duplicates": "drop",
    CONFIG + "data_conf.chat_template_name": "chat-ml",
    CONFIG + "overrides.lr_multiplier": 0.5,
    CONFIG + "early_stopping": None,
    CONFIG + "sft_args.train_on_completions_only": False,
}


@pytest.mark.parametrize("path", CHANGES)
def test_a_changed_computation_is_a_conflict_that_names_the_key(path):
    values = changed(**{CONFIG + "training_args.save_steps": 4})
    before = of(
        changed(values, **{CONFIG + "early_stopping": {}, CONFIG + "training_args.metric_for_best_model": "eval_loss"})
    )
    after = of(
        changed(
            values,
            **{
                CONFIG + "early_stopping": {},
                CONFIG + "training_args.metric_for_best_model": "eval_loss",
                path: CHANGES[path],
            },
        )
    )
    with pytest.raises(ConflictError) as caught:
        check_fingerprint(before, after, where="run", assumed=assumed())
    assert any(key.startswith(path) for key in caught.value.details["differing"])


MAY = {
    "mergeAdapter": True,
    "finetuningGpus": 2,
    "runTensorboard": True,
    "env": {"NCCL_DEBUG": "INFO"},
    "labels": {"team": "x"},
    "storageClass": "fast",
    CONFIG + "batchsize_conf.max_per_device_train_batch_size": 1,
    CONFIG + "training_args.logging_steps": 1,
    CONFIG + "training_args.eval_steps": 2,
    CONFIG + "training_args.save_steps": 1,
    CONFIG + "training_args.gradient_checkpointing": True,
    CONFIG + "training_args.dataloader_num_workers": 2,
    CONFIG + "training_args.report_to": ["tensorboard"],
    CONFIG + "run_conf.resume_from_checkpoint": True,
}


@pytest.mark.parametrize("path", MAY)
def test_keys_without_effect_on_numbers_may_change(path):
    values = changed(finetuningGpus=1)
    check_fingerprint(of(values), of(changed(values, **{path: MAY[path]})), where="run", assumed=assumed())


def test_the_fingerprint_holds_the_content_of_base_data_and_rows():
    before = {**of(VALUES), ROWS: "1"}
    for after in (
        {**of(VALUES, base="c" * 64), ROWS: "1"},
        {**of(VALUES), ROWS: "2"},
        {**of(VALUES, total=8), ROWS: "1"},
    ):
        with pytest.raises(ConflictError):
            check_fingerprint(before, after, where="run", assumed=assumed())
    check_fingerprint(before, of(VALUES), where="run", assumed=assumed(), partial=True)
    with pytest.raises(ConflictError, match=ROWS):
        check_fingerprint(before, of(VALUES), where="run", assumed=assumed())


def test_a_run_older_than_a_key_resumes_only_with_its_default():
    values = deepcopy(VALUES)
    before = of(values)
    key = CONFIG + "run_conf.trained_weights"
    del before[key]
    check_fingerprint(before, of(values), where="run", assumed=assumed())
    with pytest.raises(ConflictError, match="trained_weights"):
        check_fingerprint(before, of(changed(**{key: "as-loaded"})), where="run", assumed=assumed())


def test_a_record_of_another_format_is_compared_in_common_keys():
    old = {"basemodel": "b" * 64, CONFIG + "method": "sft", CONFIG + "data_conf": {"some": "form"}}
    check_fingerprint(old, of(VALUES), where="run", assumed=assumed())
    with pytest.raises(ConflictError, match="basemodel"):
        check_fingerprint({**old, "basemodel": "c" * 64}, of(VALUES), where="run", assumed=assumed())
