"""Settings that change how a step is computed or when things happen, each through a whole training."""

import pytest

from lab.training import ARGUMENTS, DATA, changed, deliver_inputs, final_sha256, metrics, train

CONFIG = "finetuning_config."


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("settings")
    deliver_inputs(folder / "store")
    return folder / "store"


def trained(store, tmp_path, name, **changes):
    remote = f"default-bucket/experiments/{name}"
    log = train(changed(checkpointsRemote=remote, **changes), store, tmp_path / "work")
    rows = metrics(store, remote)
    return {row["step"]: row["loss"] for row in rows if row["kind"] == "train"}, rows, log


def test_recomputing_activations_changes_no_loss(store, tmp_path):
    plain, _, _ = trained(store, tmp_path / "plain", "plain")
    checkpointed, _, _ = trained(store, tmp_path / "gc", "gc", **{ARGUMENTS + "gradient_checkpointing": True})
    assert checkpointed == pytest.approx(plain, abs=1e-5)


def test_epochs_as_intervals_with_the_best_of_one_kept_checkpoint_loaded_at_the_end(store, tmp_path):
    _, rows, _ = trained(
        store,
        tmp_path,
        "epochs",
        **{
            ARGUMENTS + "eval_strategy": "epoch",
            ARGUMENTS + "save_strategy": "epoch",
            ARGUMENTS + "load_best_model_at_end": True,
            ARGUMENTS + "save_total_limit": 1,
            ARGUMENTS + "label_smoothing_factor": 0.1,
            ARGUMENTS + "train_sampling_strategy": "group_by_length",
            ARGUMENTS + "neftune_noise_alpha": 5,
        },
    )
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [5, 10]


def test_shares_of_steps_old_spellings_bfloat16_and_tensorboard(store, tmp_path):
    losses, rows, log = trained(
        store,
        tmp_path,
        "shares",
        runTensorboard=True,
        **{
            ARGUMENTS + "bf16": True,
            ARGUMENTS + "max_steps": 4,
            ARGUMENTS + "logging_steps": 0.25,
            ARGUMENTS + "eval_steps": 0.5,
            ARGUMENTS + "save_strategy": "no",
            ARGUMENTS + "warmup_ratio": 0.5,
            CONFIG + "run_conf.model_args": {"torch_dtype": "bfloat16"},
        },
    )
    assert list(losses) == [1, 2, 3, 4]
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [2, 4]
    rates = [row["learning_rate"] for row in rows if row["kind"] == "train"]
    assert rates[0] < rates[1]  # half of the steps warm up
    assert "after a kill the run restarts at step 0" in log
    assert list((store / "default-bucket/experiments/shares/tensorboard").glob("events.*"))
    assert not list((store / "default-bucket/experiments/shares").glob("checkpoint-[0-9]*"))


def test_a_named_template_the_whole_text_validation_files_and_loading_ahead(store, tmp_path):
    whole, rows, _ = trained(
        store,
        tmp_path,
        "whole-text",
        **{
            ARGUMENTS + "dataloader_num_workers": 2,
            CONFIG + "data_conf.chat_template_name": "chat-ml",
            CONFIG + "data_conf.validation_data": {"type": "CONCATENATION", "datasets": [{"path": DATA}]},
            CONFIG + "sft_args.train_on_completions_only": False,
        },
    )
    assert whole
    evaluated = next(row["eval_tokens"] for row in rows if row["kind"] == "eval")
    trained_an_epoch = max(row["tokens"] for row in rows if "tokens" in row) / 2
    assert evaluated == pytest.approx(trained_an_epoch, abs=25)  # the same file, all of its text, on both sides


def test_no_validation_and_a_scaled_rate_and_a_merged_model(store, tmp_path):
    _, rows, _ = trained(
        store,
        tmp_path,
        "merged",
        mergeAdapter=True,
        **{
            ARGUMENTS + "eval_strategy": "no",
            CONFIG + "data_conf.validation_data": {"type": "NONE"},
            CONFIG + "overrides": {"lr_multiplier": 0.5},
        },
    )
    assert not [row for row in rows if row["kind"] == "eval"]
    assert max(row["learning_rate"] for row in rows if row["kind"] == "train") <= 0.005
    remote = "default-bucket/experiments/merged"
    assert set(final_sha256(store, remote, "checkpoint-final-merged")) == {"model.safetensors"}
