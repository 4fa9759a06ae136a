"""Each conversation of a micro-batch is computed as if it were alone, for every architecture, or the model is refused.

The reference is plain transformers: what the model predicts for one conversation in a row of its own, by its own
attention.
"""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

from lab.tiny_architectures import NOT_BUILT, VOCABULARY, build, kinds
from tuneyard.errors import InvalidDataError
from tuneyard.network.attention import PER_CONVERSATION
from tuneyard.network.batches import EncodedRows, flatten
from tuneyard.network.forms import Form, Forward
from tuneyard.network.isolation import prove_form

CPU = torch.device("cpu")
NAMES = [name for name in kinds() if name not in NOT_BUILT]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    generator = torch.Generator().manual_seed(3)
    drawn = [torch.randint(5, VOCABULARY - 1, (length,), generator=generator).tolist() for length in (26, 9, 13, 4)]
    return EncodedRows.write(
        tmp_path_factory.mktemp("rows"), [(ids, [False] + [True] * (len(ids) - 1)) for ids in drawn]
    )


def built(name, **settings):
    model = build(name, **settings)
    assert model is not None, f"no small config builds {name}: add a way in tiny_architectures"
    return model


def plain_losses(model, rows):
    """Each conversation's summed loss by the library itself."""
    losses = []
    for place in range(len(rows)):
        ids = torch.from_numpy(rows[place]["input_ids"].astype("int64"))[None]
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        losses.append(cross_entropy(logits, ids[0, 1:], reduction="sum"))
    return torch.stack(losses)


def losses_by_form(model, rows, form):
    """The same from one micro-batch."""
    if form.attention:
        model.set_attn_implementation(form.attention)
    row = flatten([rows[place] for place in range(len(rows))])
    logits = form.forward(model, row).logits_KV.float()
    of_token = cross_entropy(logits, row["labels"][0], reduction="none")
    return torch.stack([part.sum() for part in of_token.split([length - 1 for length in rows.lengths])])


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("name", NAMES)
def test_a_micro_batch_has_the_losses_and_gradients_of_its_conversations_alone(name, rows):
    model = built(name)
    try:
        form = prove_form(model, None, rows, CPU, "bucket/m")
    except InvalidDataError as refusal:
        assert "is not causal" in refusal.message
        assert sees_the_future(model)
        return
    assert not sees_the_future(model)
    plain = copy.deepcopy(model)
    expected = plain_losses(plain, rows)
    found = losses_by_form(model, rows, form)
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5)
    wanted = gradients(plain, expected.sum())
    given = gradients(model, found.sum())
    assert given.keys() == wanted.keys()
    for weight, gradient in wanted.items():
        scale = gradient.abs().max().clamp(min=1e-3)
        torch.testing.assert_close(given[weight] / scale, gradient / scale, rtol=1e-3, atol=2e-3)


def sees_the_future(model):
    ids = torch.arange(5, 17)[None]
    other = ids.clone()
    other[0, -1] = 50
    with torch.no_grad():
        one, two = model(input_ids=ids, use_cache=False).logits, model(input_ids=other, use_cache=False).logits
    return not torch.allclose(one[:, :-1], two[:, :-1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "form", "attention"),
    [
        ("LlamaForCausalLM", Form.FLAT, PER_CONVERSATION),
        ("Gemma2ForCausalLM", Form.FLAT, PER_CONVERSATION),
        ("GptOssForCausalLM", Form.FLAT, PER_CONVERSATION),
        ("MixtralForCausalLM", Form.FLAT, PER_CONVERSATION),
        ("StableLmForCausalLM", Form.FLAT, ""),
        ("BloomForCausalLM", Form.SINGLE, ""),
        ("MambaForCausalLM", Form.SINGLE, ""),
    ],
)
def test_the_fastest_correct_form_is_chosen(name, form, attention, rows):
    found = prove_form(built(name), None, rows, CPU, "bucket/m")
    assert (found.form, found.attention) == (form, attention)
    assert bool(found.notice) == ((form, attention) != (Form.FLAT, PER_CONVERSATION))
    if found.notice:
        assert name in found.notice
        assert "\n" not in found.notice


def test_a_configured_attention_is_checked_too(rows):
    found = prove_form(built("GptOssForCausalLM"), "eager", rows, CPU, "bucket/m")
    assert found.form is Form.SINGLE  # its mask does not keep the conversations of a row apart
    found = prove_form(built("LlamaForCausalLM"), "eager", rows, CPU, "bucket/m")
    assert (found.form, found.attention) == (Form.FLAT, "eager")


def test_the_check_changes_neither_the_model_nor_the_random_state(rows):
    model = built("LlamaForCausalLM")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    layers, attention = len(model.model.layers), model.config._attn_implementation
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    prove_form(model, None, rows, CPU, "bucket/m")
    assert torch.equal(torch.rand(3), expected)
    assert (len(model.model.layers), model.config._attn_implementation) == (layers, attention)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_the_check_computes_in_ieee_float32_whatever_is_configured(rows):
    model, seen = built("LlamaForCausalLM"), set()
    model.model.layers[0].register_forward_hook(lambda *_: seen.add(torch.backends.fp32_precision))
    before = torch.backends.fp32_precision
    try:
        torch.backends.fp32_precision = "tf32"
        prove_form(model, None, rows, CPU, "bucket/m")
        assert torch.backends.fp32_precision == "tf32"
    finally:
        torch.backends.fp32_precision = before
    assert seen == {"ieee"}


def test_one_layer_of_each_kind_is_checked():
    from tuneyard.network.isolation import _few_layers

    same = build("LlamaForCausalLM", num_hidden_layers=6)
    assert len(_few_layers(same).model.layers) == 1
    assert len(same.model.layers) == 6
    types = ["sliding_attention"] * 3 + ["full_attention"] + ["sliding_attention"] * 2
    mixed = build("Gemma3ForCausalLM", num_hidden_layers=6, layer_types=types)
    assert len(_few_layers(mixed).model.layers) == 4


class _Leaks(torch.nn.Module):
    """A layer that adds a little of the token before to each token, across conversations."""

    def __init__(self, layer, share):
        super().__init__()
        self.layer, self.share = layer, share

    def forward(self, hidden_states, *args, **kwargs):
        shifted = torch.nn.functional.pad(hidden_states, (0, 0, 1, -1))
        return self.layer(hidden_states + self.share * shifted, *args, **kwargs)


def test_a_leak_of_one_thousandth_is_found(rows):
    model = built("LlamaForCausalLM")
    model.model.layers[1] = _Leaks(model.model.layers[1], 1e-3)
    found = prove_form(model, None, rows, CPU, "bucket/m")
    assert found.form is Form.SINGLE


def test_a_leak_in_training_alone_is_found(rows):
    class InTraining(_Leaks):
        def forward(self, hidden_states, *args, **kwargs):
            if not self.training:
                return self.layer(hidden_states, *args, **kwargs)
            return super().forward(hidden_states, *args, **kwargs)

    model = built("LlamaForCausalLM")
    model.model.layers[0] = InTraining(model.model.layers[0], 0.1)
    assert prove_form(model, None, rows, CPU, "bucket/m").form is Form.SINGLE


def test_a_model_that_sees_the_future_is_refused(rows):
    model = built("BertLMHeadModel", is_decoder=False)
    with pytest.raises(InvalidDataError, match="is not causal") as caught:
        prove_form(model, None, rows, CPU, "bucket/m")
    assert caught.value.exit_code == 3
    assert "'bucket/m'" in caught.value.message


def test_a_base_with_nan_in_it_is_refused(rows):
    model = built("LlamaForCausalLM")
    with torch.no_grad():
        model.model.norm.weight[3] = float("nan")
    with pytest.raises(InvalidDataError, match="predicts NaN"):
        prove_form(model, None, rows, CPU, "bucket/m")


def test_a_sliding_window_that_an_attention_ignores_is_found_in_a_longer_conversation(rows):
    from transformers import AttentionInterface

    from tuneyard.network.attention import per_conversation_attention

    def without_window(*args, sliding_window=None, **kwargs):
        return per_conversation_attention(*args, **kwargs)

    AttentionInterface.register("without_window", without_window)
    model = built("MistralForCausalLM", sliding_window=6)
    with pytest.raises(InvalidDataError, match="no row layout keeps"):
        prove_form(model, "without_window", rows, CPU, "bucket/m")


def test_logits_of_chosen_positions_are_selected_if_a_model_computes_all():
    model = built("LlamaForCausalLM")
    row = flatten([{"input_ids": torch.arange(5, 12).numpy(), "loss_mask": torch.ones(7, dtype=torch.bool).numpy()}])
    with torch.no_grad():
        picked, selected = (Forward(Form.FLAT, selects)(model, row).logits_KV for selects in (False, True))
    torch.testing.assert_close(picked, selected)
