from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from small_pretraining import B, G, K, config, run, views
from torch import Tensor, nn

from hpt import encoder
from hpt.config import MocoConfig
from hpt.data.images import Images
from hpt.data.loader import Order
from hpt.moco import CHUNK, InfoNCE, MoCo, projection_head
from hpt.processes import Compute, Processes
from hpt.randomness import generator


class Plain(nn.Module):
    """MoCo-v2 once more, from Algorithm 1 of arXiv 1911.05722; it shares only the parts' initial values with ours.

    Four "GPUs" of the paper are a loop over groups, each with its own copy of BatchNorm's buffers.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        backbone = encoder.build("resnet18", seed=seed)
        self.f_q = nn.Sequential(backbone, projection_head(512, 128, seed))
        self.f_k = copy.deepcopy(self.f_q)
        random = torch.randn(K, 128, generator=generator(seed, "queue"))
        self.queue = F.normalize(random, dim=1).T  # C x K

    def step(self, x_q: Tensor, x_k: Tensor, shuffle: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        k = torch.zeros(B, 128)
        with torch.no_grad():
            for group in range(B // G):  # shuffled BatchNorm: a group of keys is not a group of queries
                rows = shuffle[group * G : (group + 1) * G]
                k[rows] = F.normalize(self.f_k(x_k[rows]), dim=1)
        losses, logits = [], []
        for group in range(B // G):
            rows = slice(group * G, (group + 1) * G)
            q = F.normalize(self.f_q(x_q[rows]), dim=1)
            l_pos = torch.bmm(q.view(G, 1, 128), k[rows].view(G, 128, 1)).view(G, 1)
            l_neg = torch.mm(q, self.queue)
            both = torch.cat([l_pos, l_neg], dim=1) / temperature
            logits.append(both.detach())
            losses.append(-both.log_softmax(dim=1)[:, 0])
        return torch.cat(losses).mean(), torch.cat(logits)


def test_a_step_moves_the_weights_as_the_papers_pseudo_code_does(images: Images, tmp_path: Path) -> None:
    settings = config(steps=1)
    _, logged = run(settings, images, tmp_path)
    ours = load_file(tmp_path / "backbone.safetensors")

    plain = Plain(settings.seed)
    draw = Order(len(images), B, settings.seed).draw(0)
    x_q = views(settings, images, draw.images, draw.query)
    shown = views(settings, images, draw.images[draw.shuffle], draw.key)  # keys are drawn in their shuffled places
    x_k = torch.empty_like(shown)
    x_k[draw.shuffle] = shown
    loss, _ = plain.step(x_q, x_k, draw.shuffle, 0.2)
    loss.backward()
    assert logged[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)

    lr, decay = 0.03 * B / 256, 1e-4
    for name, parameter in plain.f_q[0].named_parameters():
        moved = parameter.detach() - lr * (parameter.grad + decay * parameter.detach())
        torch.testing.assert_close(ours[name], moved, atol=1e-6, rtol=1e-4, msg=name)


def test_losses_and_gradients_equal_the_papers(images: Images) -> None:
    settings, plain = config(), Plain(5)
    moco = MoCo(encoder.build("resnet18", seed=5), 512, settings.moco, seed=5)
    draw = Order(len(images), B, 5).draw(0)
    x_q, x_k = (
        views(settings, images, draw.images, draw.query),
        views(settings, images, draw.images, draw.key),
    )
    expected, logits = plain.step(x_q, x_k, draw.shuffle, 0.2)
    expected.backward()

    shuffled = x_k[draw.shuffle].split(G)
    loss, ranked_first = moco.step(
        x_q.split(G), shuffled, draw.shuffle, Processes(1, "cpu"), Compute(torch.device("cpu"), bf16=False)
    )
    torch.testing.assert_close(loss, expected.detach(), atol=1e-5, rtol=1e-5)
    assert round(float(ranked_first) * B) == int((logits.argmax(dim=1) == 0).sum())
    theirs = dict(plain.f_q[0].named_parameters())
    for name, parameter in moco.query.backbone.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, atol=1e-6, rtol=1e-3, msg=name)
    for ours, his in zip(moco.query.head.parameters(), plain.f_q[1].parameters(), strict=True):
        torch.testing.assert_close(ours.grad, his.grad, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("temperature", [0.2, 0.005])
@pytest.mark.parametrize("size", [3, CHUNK, 2 * CHUNK + 5])
def test_infonce_is_cross_entropy_with_its_gradient(temperature: float, size: int) -> None:
    random = torch.Generator().manual_seed(size)
    queries, keys, queue = (F.normalize(torch.randn(n, 16, generator=random), dim=1).double() for n in (7, 7, size))
    keys[:3] = queries[:3]  # some are certain of their key, some wrong about it
    queries.requires_grad_()
    logits = torch.cat([(queries * keys).sum(dim=1, keepdim=True), queries @ queue.T], dim=1) / temperature
    expected = F.cross_entropy(logits, torch.zeros(7, dtype=torch.long))
    gradient = torch.autograd.grad(expected * 3, queries)[0]

    loss, ranked_first = InfoNCE.apply(queries, keys, queue, temperature)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss * 3, queries)[0], gradient)
    assert ranked_first == (logits.argmax(dim=1) == 0).sum()


def test_the_key_encoder_starts_as_a_copy_and_follows_with_momentum() -> None:
    moco = MoCo(encoder.build("resnet18", seed=0), 512, MocoConfig(queue_size=K, momentum=0.75), seed=0)
    for query, key in zip(moco.query.parameters(), moco.key.parameters(), strict=True):
        assert torch.equal(query, key)
        assert not key.requires_grad
    before = next(moco.key.parameters()).clone()
    with torch.no_grad():
        next(moco.query.parameters()).add_(1.0)
    moco.update_key_encoder()
    torch.testing.assert_close(next(moco.key.parameters()), before + 0.25)


def test_the_queue_replaces_its_oldest_keys_and_wraps_around() -> None:
    moco = MoCo(encoder.build("resnet18", seed=0), 512, MocoConfig(queue_size=5, dim=2), seed=0)
    start = moco.queue.clone()
    moco.enqueue(torch.full((3, 2), 1.0))
    moco.enqueue(torch.full((3, 2), 2.0))
    assert moco.queue[:, 0].tolist() == [2.0, 1.0, 1.0, 2.0, 2.0]
    assert moco.position.item() == 1
    assert not torch.equal(start, moco.queue)
