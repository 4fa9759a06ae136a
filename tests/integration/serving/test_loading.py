"""Models in memory: one set of base weights, whatever stands on it."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile

import pytest

from lab import serving
from lab.chat_families import FAMILIES, make_family_tokenizer
from tuneyard.errors import InvalidDataError, InvalidValuesError
from tuneyard.serving.flags import app_settings
from tuneyard.serving.placement import Placement, Weights, place_models
from tuneyard.store import open_store
from tuneyard.values import InferenceValues


def load(store, workdir, model=f"s3://{serving.TUNED}", flags=None, **more):
    from tuneyard.serving.loading import load_models

    values = InferenceValues.model_validate(serving.values(model, vllm_engine_args=flags or {}, **more))
    placement = place_models(values, open_store(store.as_uri()), workdir)
    return load_models(placement, app_settings(values.vllm_engine_args), "cpu")


def test_adapters_share_the_weights_of_their_base(stored_models, tmp_path):
    tuned, base, other = load(stored_models.store, tmp_path, adapters={"other": serving.OTHER})
    assert [one.names for one in (tuned, base, other)] == [("tuned",), ("tiny",), ("other",)]
    assert [one.parent for one in (tuned, base, other)] == ["tiny", "", "tiny"]
    own = {weight.data_ptr() for weight in base.model.parameters()}
    for adapted in (tuned, other):
        shared = {weight.data_ptr() for name, weight in adapted.model.named_parameters() if "lora_" not in name}
        assert shared == own


def test_adapter_whose_initialization_changes_the_base_gets_its_own_copy(stored_models, tmp_path):
    """peft repeats PiSSA's beginning when it loads an adapter, which writes into the base's weights."""
    import torch

    base = stored_models.beside / "base"
    folder = serving.make_adapter(base, tmp_path / "pissa", seed=5, init_lora_weights="pissa")
    key = "default-bucket/models/pissa"
    serving.put(stored_models.store, key, folder, kind="model")
    plain, adapted = load(stored_models.store, tmp_path, f"s3://{serving.BASE}", adapters={"pissa": key})
    (untouched,) = load(stored_models.store, tmp_path, f"s3://{serving.BASE}")
    assert "pissa" in json.loads((folder / "adapter_config.json").read_text())["init_lora_weights"]
    for one, two in zip(plain.model.parameters(), untouched.model.parameters(), strict=True):
        assert torch.equal(one, two)
    assert adapted.names == ("pissa",)


def test_requested_dtype_is_used(stored_models, tmp_path):
    import torch

    (full,) = load(stored_models.store, tmp_path, f"s3://{serving.FULL}", {"dtype": "bfloat16"})
    assert full.model.dtype == torch.bfloat16


def test_max_model_len_beyond_the_model_s_context_is_refused(stored_models, tmp_path):
    (full,) = load(stored_models.store, tmp_path, f"s3://{serving.FULL}", {"max_model_len": 64})
    assert full.limit == 64
    with pytest.raises(InvalidValuesError, match="exceeds the model's context of 2048"):
        load(stored_models.store, tmp_path, f"s3://{serving.FULL}", {"max_model_len": 4096})


def tiny(tmp_path, kind, config):
    """Load a random model of an architecture."""
    folder = make_family_tokenizer(tmp_path / "model", FAMILIES["gemma-3"])
    kept = (folder / "generation_config.json").read_bytes()
    kind(config).save_pretrained(folder)
    (folder / "generation_config.json").write_bytes(kept)
    serving.put(tmp_path / "store", "default-bucket/models/other", folder, kind="model")
    (one,) = load(tmp_path / "store", tmp_path / "work", "s3://default-bucket/models/other")
    return one


def test_context_of_a_multimodal_model_is_that_of_its_text_config(tmp_path):
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    size = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
    text = {**size, "vocab_size": 1024, "num_hidden_layers": 2, "num_key_value_heads": 1, "head_dim": 16}
    config = Gemma3Config(
        text_config={**text, "max_position_embeddings": 4096},
        vision_config={**size, "num_hidden_layers": 1, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
    )
    assert tiny(tmp_path, Gemma3ForConditionalGeneration, config).limit == 4096


def test_model_without_a_context_limit_gets_a_logged_default(tmp_path, caplog):
    from transformers import BloomConfig, BloomForCausalLM

    config = BloomConfig(vocab_size=1024, hidden_size=32, n_layer=2, n_head=2)
    assert tiny(tmp_path, BloomForCausalLM, config).limit == 2048
    assert "the context is 2048 tokens. Set another with vllm_engine_args.max_model_len." in caplog.text


def test_verified_files_that_are_no_model_are_refused(stored_models, tmp_path):
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/config.json").write_text('{"model_type": "nothing-known"}')
    serving.put(stored_models.store, "default-bucket/models/odd", tmp_path / "odd", kind="model")
    with pytest.raises(InvalidDataError, match=r"'default-bucket/models/odd' can't be loaded"):
        load(stored_models.store, tmp_path, "s3://default-bucket/models/odd")


def test_adapter_that_lacks_weights_is_refused(stored_models, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = serving.make_adapter(stored_models.beside / "base", tmp_path / "lacking", seed=6)
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    weights.pop(sorted(weights)[0])
    save_file(weights, path, metadata={"format": "pt"})
    serving.put(stored_models.store, "default-bucket/models/lacking", folder, kind="model")
    with pytest.raises(InvalidDataError, match="lacks weights"):
        load(stored_models.store, tmp_path, f"s3://{serving.BASE}", adapters={"x": "default-bucket/models/lacking"})


def test_pickled_weights_are_never_opened(stored_models, tmp_path):
    """Vetting refuses them before; the libraries are configured to refuse them too."""
    from tuneyard.serving.loading import load_models

    folder, canary = tmp_path / "pickled", tmp_path / "canary"
    shutil.copytree(stored_models.beside / "full", folder)
    (folder / "model.safetensors").unlink()
    torch_like = pickle.dumps(Opens(str(canary)))
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", torch_like)
        archive.writestr("archive/version", "3\n")
    placement = Placement(Weights("bucket/pickled", folder, "0" * 64, {}), ("pickled",), (), ("pickled",))
    with pytest.raises(InvalidDataError, match=r"no file named model\.safetensors"):
        load_models(placement, app_settings({}), "cpu")
    assert not canary.exists()


class Opens:
    """Pickles into a call that leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


ODD_TEMPLATES = {
    "a map of names": ({"x": "{{ messages }}"}, "chat templates named x, and none named default"),
    "a list of names": (
        [{"name": "x", "template": "{{ messages }}"}],
        "chat templates named x, and none named default",
    ),
    "no text": (3, "a chat template that is not text"),
}


@pytest.mark.parametrize("template", ODD_TEMPLATES)
def test_model_without_a_default_template_is_refused(template, tmp_path):
    from lab.tiny_models import make_model

    given, why = ODD_TEMPLATES[template]
    folder = make_model(tmp_path / "model")
    (folder / "chat_template.jinja").unlink()
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": given}))
    serving.put(tmp_path / "store", "default-bucket/models/other", folder, kind="model")
    with pytest.raises(InvalidDataError, match=f"The tokenizer of .* has {why}") as caught:
        load(tmp_path / "store", tmp_path / "work", "s3://default-bucket/models/other")
    assert "chat_template_name=chat-ml" in caught.value.hint


def test_model_whose_named_templates_have_a_default_is_loaded(tmp_path):
    from lab.tiny_models import CHATML, make_model

    folder = make_model(tmp_path / "model")
    (folder / "chat_template.jinja").unlink()
    path = folder / "tokenizer_config.json"
    templates = [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": "{{ tools }}"}]
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": templates}))
    serving.put(tmp_path / "store", "default-bucket/models/other", folder, kind="model")
    (one,) = load(tmp_path / "store", tmp_path / "work", "s3://default-bucket/models/other")
    prompt = one.template.prompt([{"role": "user", "content": "What is a yard?"}], None, {})
    assert "<|im_start|>user\nWhat is a yard?" in one.tokenizer.decode(prompt.inputs["input_ids"][0])
