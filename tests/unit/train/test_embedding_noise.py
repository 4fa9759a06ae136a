"""NEFTune's noise has the magnitude of the paper's formula for each conversation, however many share a row."""

import math

import pytest
import torch
from torch import nn

from lab.tiny_architectures import build
from tuneyard.train.noise import EmbeddingNoise

ALPHA, WIDTH = 5.0, 64


class Embeds(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, WIDTH)

    def get_input_embeddings(self):
        return self.table


def noise_of(lengths, *, flat=True):
    model = Embeds().train()
    noise = EmbeddingNoise(model, ALPHA)
    ids = torch.zeros(1, sum(lengths), dtype=torch.long)
    if flat:
        noise.bounds = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    torch.manual_seed(0)
    return (model.table(ids) - model.table.weight[0])[0].split(lengths)


@pytest.mark.parametrize("lengths", [[400], [400, 25], [25, 100, 400]])
def test_a_conversation_has_the_same_noise_in_a_row_as_alone(lengths):
    for length, noise in zip(lengths, noise_of(lengths), strict=True):
        bound = ALPHA / math.sqrt(length * WIDTH)  # arxiv.org/abs/2310.05914, algorithm 1
        assert noise.abs().max().item() <= bound * (1 + 1e-5)
        # a uniform distribution from -b to b has a variance of b * b / 3
        assert noise.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_a_single_conversation_uses_its_own_length():
    (noise,) = noise_of([100], flat=False)
    assert noise.abs().max().item() == pytest.approx(ALPHA / math.sqrt(100 * WIDTH), rel=0.01)


def test_an_evaluation_has_no_noise():
    model = Embeds().eval()
    EmbeddingNoise(model, ALPHA)
    ids = torch.zeros(1, 5, dtype=torch.long)
    assert torch.equal(model.table(ids)[0], model.table.weight[:1].expand(5, -1))


def test_a_real_model_adds_the_noise_to_its_embeddings():
    model = build("LlamaForCausalLM").train()
    ids = torch.arange(5, 15)[None]
    plain = model(input_ids=ids).logits
    EmbeddingNoise(model, 500.0)
    assert not torch.allclose(model(input_ids=ids).logits, plain)
