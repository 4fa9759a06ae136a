"""Attention over a flat row equals attention over each conversation alone."""

from itertools import pairwise

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from tuneyard.network.attention import per_conversation_attention

BOUNDS = [0, 4, 5, 12]


def tensors(heads=4, key_heads=2):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, n, BOUNDS[-1], 8, generator=generator) for n in (heads, key_heads, key_heads)]


def attend(query, key, value, **keywords):
    layer = torch.nn.Identity().eval()
    bounds = torch.tensor(BOUNDS, dtype=torch.int32)
    return per_conversation_attention(layer, query, key, value, None, cu_seq_lens_q=bounds, **keywords)[0]


def reference(query, key, value, allowed):
    """Dense attention over the whole row with an explicit mask, heads repeated by hand."""
    key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], dim=1) for t in (key, value))
    return scaled_dot_product_attention(query, key, value, attn_mask=allowed).transpose(1, 2)


def block_causal(window=None):
    length = BOUNDS[-1]
    allowed = torch.zeros(length, length, dtype=torch.bool)
    for start, end in pairwise(BOUNDS):
        for at in range(start, end):
            first = start if window is None else max(start, at - window + 1)
            allowed[at, first : at + 1] = True
    return allowed


def test_no_token_sees_another_conversation():
    query, key, value = tensors()
    torch.testing.assert_close(attend(query, key, value), reference(query, key, value, block_causal()))


def test_a_sliding_window_limits_how_far_back_a_token_sees():
    query, key, value = tensors()
    expected = reference(query, key, value, block_causal(window=3))
    torch.testing.assert_close(attend(query, key, value, sliding_window=3), expected)


def test_a_change_in_one_conversation_changes_no_other():
    query, key, value = tensors()
    before = attend(query, key, value)
    key[:, :, 5:] += 1.0
    after = attend(query, key, value)
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.equal(before[:, 5:], after[:, 5:])


def by_hand(query, key, value, allowed, *, softcap=None, sinks=None):
    """Softmax over dense scores, written out from the papers' formulas."""
    key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], dim=1) for t in (key, value))
    scores = torch.einsum("bhqd,bhkd->bhqk", query, key) / query.shape[-1] ** 0.5
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    powers = scores.exp() * allowed
    total = powers.sum(-1, keepdim=True)
    if sinks is not None:
        total = total + sinks.exp()[None, :, None, None]
    return torch.einsum("bhqk,bhkd->bqhd", powers / total, value)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("with_sinks", [False, True])
def test_soft_caps_sinks_and_windows_combine(window, softcap, with_sinks):
    query, key, value = tensors()
    sinks = torch.tensor([0.5, -1.0, 2.0, 0.0]) if with_sinks else None
    found = attend(query, key, value, softcap=softcap, s_aux=sinks, sliding_window=window)
    expected = by_hand(query, key, value, block_causal(window), softcap=softcap, sinks=sinks)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
