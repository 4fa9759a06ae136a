"""Each setting of quantization reaches transformers' own configuration, or is refused where its bits are not chosen."""

import pytest

from tuneyard.errors import InvalidValuesError
from tuneyard.network.model import quantization_config
from tuneyard.values import FinetuneValues, check_values
from tuneyard.values.adapters import QuantConf

WHERE = "finetuning_config.quant_conf"
FOUR = {"quantization_type": "bits-and-bytes", "load_in_4bit": True}
EIGHT = {"quantization_type": "bits-and-bytes", "load_in_8bit": True}
SETTINGS = [
    ("llm_int8_threshold", 5.0, EIGHT, FOUR),
    ("llm_int8_has_fp16_weight", True, EIGHT, FOUR),
    ("llm_int8_skip_modules", ["lm_head"], FOUR, {}),
    ("bnb_4bit_compute_dtype", "bfloat16", FOUR, EIGHT),
    ("bnb_4bit_quant_type", "nf4", FOUR, EIGHT),
    ("bnb_4bit_use_double_quant", True, FOUR, EIGHT),
    ("bnb_4bit_quant_storage", "float16", FOUR, EIGHT),
]


def values(**quant):
    config = {"quant_conf": quant, "peft_conf": {"peft_type": "LORA"}, "data_conf": {"training_data": {"datasets": []}}}
    config["data_conf"]["training_data"]["datasets"] = [{"path": "a/b.jsonl"}]
    return {"basemodel": "a/b", "finetuning_config": config}


def made(**quant):
    conf = check_values(FinetuneValues, values(**quant)).finetuning_config.quant_conf
    return quantization_config(conf).to_dict()


def test_every_setting_is_here():
    kinds = {"quantization_type", "load_in_8bit", "load_in_4bit", "llm_int8_enable_fp32_cpu_offload"}
    assert {name for name, *_ in SETTINGS} | kinds == set(QuantConf.model_fields)


@pytest.mark.parametrize(("name", "value", "beside", "otherwise"), SETTINGS, ids=[name for name, *_ in SETTINGS])
def test_a_setting_is_passed_to_transformers_or_refused(name, value, beside, otherwise):
    assert made(**beside, **{name: value}) != made(**beside)
    for others in (otherwise, {}):
        with pytest.raises(InvalidValuesError, match=f"{WHERE}.{name}: has no effect without its bits"):
            made(**others, **{name: value})


def test_bits_are_transformers():
    assert (made(**FOUR)["load_in_4bit"], made(**EIGHT)["load_in_8bit"]) == (True, True)


def test_weights_are_never_kept_on_the_cpu_beside_an_accelerator():
    with pytest.raises(InvalidValuesError, match="llm_int8_enable_fp32_cpu_offload: has no effect"):
        made(**EIGHT, llm_int8_enable_fp32_cpu_offload=True)
