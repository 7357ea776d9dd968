from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from hpt import augment, encoder
from hpt.config import MocoConfig, PretrainConfig
from hpt.data.cache import Images
from hpt.data.dataset import load
from hpt.data.loader import Order
from hpt.moco import CHUNK, InfoNCE, MoCo, projection_head
from hpt.pretrain import Step, pretrain
from hpt.processes import Processes
from hpt.randomness import generator

B, G, K = 16, 8, 32  # batch, BatchNorm group, queue
SETTINGS = {
    "dataset": "unused",
    "backbone": "resnet18",
    "image_size": 32,
    "batch_size": B,
    "moco": {"queue_size": K, "bn_group": G, "momentum": 0.9},
    "device": "cpu",
    "log_every": 1,
}


def config(strategy: str = "target", **changes: object) -> PretrainConfig:
    weights = {"weights": None} if strategy == "target" else {}
    return PretrainConfig.model_validate(SETTINGS | {"strategy": strategy} | weights | changes)


@pytest.fixture(scope="module")
def images(digits_folder: Path) -> Images:
    settings = config()
    return load(str(digits_folder), settings.data, side=settings.data.side(32)).pretraining_images()


def run(
    settings: PretrainConfig, images: Images, start: dict[str, Tensor] | None, folder: Path
) -> list[dict[str, float]]:
    folder.mkdir(exist_ok=True)
    logged: list[dict[str, float]] = []
    pretrain(
        settings,
        images,
        start,
        folder,
        processes=Processes(1, "cpu"),
        log=lambda metrics, step: logged.append(metrics | {"step": step}),
        progress=lambda *_: None,
    )
    return logged


def views(settings: PretrainConfig, images: Images, indices: Tensor, random: torch.Generator) -> Tensor:
    raw = images.batch(indices.numpy())
    view = augment.parameters(augment.draw(len(indices), random), raw.sizes, settings.augment)
    return augment.train_view(raw, view, settings.image_size, images.mean, images.std)


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
    logged = run(settings, images, None, tmp_path)
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

    keys = torch.empty(B, 128)
    with torch.no_grad():
        for rows in draw.shuffle.split(G):
            keys[rows] = moco.key(x_k[rows])
    total, first = torch.zeros(()), 0
    for rows in torch.arange(B).split(G):
        loss, ranked_first = moco.loss(moco.query(x_q[rows]), keys[rows])
        (loss * G / B).backward()
        total, first = total + loss.detach() * G / B, first + int(ranked_first)
    torch.testing.assert_close(total, expected.detach(), atol=1e-5, rtol=1e-5)
    assert first == int((logits.argmax(dim=1) == 0).sum())
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


def test_groups_that_go_through_the_encoder_together_give_the_step_of_groups_one_by_one(images: Images) -> None:
    gradients, statistics, losses = [], [], []
    for micro_batch in (4, 8, 16):
        settings = config(moco=SETTINGS["moco"] | {"bn_group": 4, "micro_batch": micro_batch})
        moco = MoCo(encoder.build("resnet18", seed=0), 512, settings.moco, seed=0)
        step = Step(settings, moco, Processes(1, "cpu"))
        draw = Order(len(images), B, 0).draw(0)
        with step.feed(images, [0]) as feed:
            key_views = list(step.views(feed, draw.images[draw.shuffle], draw.key))
            assert [len(view) for view in key_views] == [micro_batch] * (B // micro_batch)
            before = [parameter.detach().clone() for parameter in step.trained]
            losses.append(step(key_views, step.views(feed, draw.images, draw.query), draw.shuffle, 0.1)[0])
        gradients.append([b - a.detach() for a, b in zip(step.trained, before, strict=True)])
        statistics.append([buffer.clone() for buffer in moco.buffers()])
    for other in (1, 2):
        torch.testing.assert_close(losses[other], losses[0])
        torch.testing.assert_close(gradients[other], gradients[0], atol=1e-5, rtol=1e-3)
        torch.testing.assert_close(statistics[other], statistics[0], atol=1e-5, rtol=1e-4)


def test_views_are_made_in_full_precision_whatever_the_model_computes_in(images: Images) -> None:
    settings = config(precision="bf16")
    moco = MoCo(encoder.build("resnet18", seed=0), 512, settings.moco, seed=0)
    step = Step(settings, moco, Processes(1, "cpu"))
    draw = Order(len(images), B, 0).draw(0)
    expected = views(settings, images, draw.images[draw.shuffle], draw.key)
    key = Order(len(images), B, 0).draw(0).key
    with step.feed(images, [0]) as feed:
        with step.autocast:
            key_views = list(step.views(feed, draw.images[draw.shuffle], key))
        torch.testing.assert_close(torch.cat(key_views), expected, atol=1e-5, rtol=0)
        loss, _ = step(key_views, step.views(feed, draw.images, draw.query), draw.shuffle, 0.1)
    assert loss.isfinite()


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


@pytest.mark.parametrize("together", [1, 2, 4])
def test_groups_are_normalised_apart_and_running_statistics_are_their_mean(together: int) -> None:
    """As four processes would have it, each with BatchNorm of its own, which then average."""
    bn, alone = encoder.BatchNorm(3), [nn.BatchNorm2d(3) for _ in range(4)]
    bn.group, bn.groups = 6, 4
    batches = torch.randn(3, 24, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for step in batches:
        ours = torch.cat([bn(some) for some in step.split(6 * together)])
        theirs = torch.cat([each(some) for each, some in zip(alone, step.split(6), strict=True)])
        torch.testing.assert_close(ours, theirs)
        for name in ("running_mean", "running_var"):
            mean = torch.stack([getattr(each, name) for each in alone]).mean(dim=0)
            torch.testing.assert_close(getattr(bn, name), mean)
    assert bn.num_batches_tracked == 12
    images = torch.randn(5, 3, 4, 4)
    assert torch.equal(bn.eval()(images), F.batch_norm(images, bn.running_mean, bn.running_var, bn.weight, bn.bias))


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.mark.parametrize("strategy", ["base", "target", "hpt", "hpt-bn"])
def test_a_strategy_changes_what_its_row_says_and_nothing_else(strategy: str, images: Images, tmp_path: Path) -> None:
    start = encoder.build("resnet18", seed=0 if strategy == "target" else 9).state_dict()
    start = {name: value.clone() for name, value in start.items()}
    run(config(strategy, steps=2), images, None if strategy == "target" else start, tmp_path)
    after = load_file(tmp_path / "backbone.safetensors")
    assert set(after) == set(start)
    norms = {name.rpartition(".")[0] for name in start if name.endswith("running_mean")}
    statistics = {f"{norm}.{buffer}" for norm in norms for buffer in BUFFERS}
    affine = {f"{norm}.{part}" for norm in norms for part in ("weight", "bias")}
    expected = {"base": statistics, "hpt-bn": statistics | affine, "hpt": set(start), "target": set(start)}[strategy]
    assert changed(start, after) == expected


def test_base_estimates_the_statistics_of_the_target_images(images: Images, tmp_path: Path) -> None:
    start = encoder.build("resnet18", seed=9).state_dict()
    run(config("base"), images, start, tmp_path)
    after = load_file(tmp_path / "backbone.safetensors")
    raw = images.batch(range(len(images)))
    model = encoder.build("resnet18", seed=9)
    stem = model.conv1(augment.centre_view(raw, 32, images.mean, images.std)).mean(dim=(0, 2, 3)).detach()
    torch.testing.assert_close(after["bn1.running_mean"], stem, atol=0.02, rtol=0.02)


def test_a_resumed_run_ends_in_the_same_bits(images: Images, tmp_path: Path) -> None:
    from hpt.errors import Interrupted

    settings = config(steps=6, checkpoint_every=2)
    run(settings, images, None, tmp_path / "unbroken")
    calls = iter([0, 0, 15])
    with pytest.raises(Interrupted, match="step 3 of 6"):
        (tmp_path / "broken").mkdir()
        pretrain(
            settings,
            images,
            None,
            tmp_path / "broken",
            processes=Processes(1, "cpu"),
            log=lambda *_: None,
            progress=lambda *_: None,
            stop=lambda: next(calls),
        )
    run(settings, images, None, tmp_path / "broken")
    names = sorted(p.name for p in (tmp_path / "broken" / "checkpoints").glob("*.pt"))
    assert names == ["step-00000004.pt", "step-00000006.pt"]
    unbroken, broken = ((tmp_path / name / "backbone.safetensors").read_bytes() for name in ("unbroken", "broken"))
    assert unbroken == broken


def test_a_checkpoint_without_its_seal_does_not_count(images: Images, tmp_path: Path) -> None:
    """Killed between the checkpoint's rename and its seal: the run goes on from the one before, or from the start."""
    settings = config(steps=2, checkpoint_every=2)
    run(settings, images, None, tmp_path)
    expected = (tmp_path / "backbone.safetensors").read_bytes()
    (tmp_path / "checkpoints" / "step-00000002.sha256").unlink()
    assert [line["step"] for line in run(settings, images, None, tmp_path)] == [1, 2]
    assert (tmp_path / "backbone.safetensors").read_bytes() == expected


def test_a_damaged_checkpoint_gives_way_to_the_one_before(images: Images, tmp_path: Path) -> None:
    settings = config(steps=4, checkpoint_every=2)
    run(settings, images, None, tmp_path)
    expected = (tmp_path / "backbone.safetensors").read_bytes()
    last = tmp_path / "checkpoints" / "step-00000004.pt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1  # one flipped bit, which torch.load would not notice
    last.write_bytes(content)
    steps = [line["step"] for line in run(settings, images, None, tmp_path)]
    assert steps == [3, 4]
    assert (tmp_path / "backbone.safetensors").read_bytes() == expected


def test_a_model_that_is_no_longer_finite_is_not_saved(images: Images, tmp_path: Path) -> None:
    from hpt.errors import HptError

    settings = config(steps=4, checkpoint_every=2, log_every=100, optimizer={"lr": 1e38})
    with pytest.raises(HptError, match="the loss is"):
        run(settings, images, None, tmp_path)
    assert not list((tmp_path / "checkpoints").glob("*.pt"))


def test_every_image_is_seen_once_a_pass_and_no_process_needs_another_ones_state() -> None:
    order = Order(50, 16, seed=3)
    seen = torch.cat([order.batch(step) for step in range(3)])
    assert len(set(seen.tolist())) == 48
    assert not torch.equal(order.batch(0), order.batch(3))
    assert torch.equal(Order(50, 16, seed=3).batch(7), order.batch(7))


def test_fewer_images_than_a_batch_are_refused_with_a_batch_size_that_works() -> None:
    from hpt.errors import DataError

    with pytest.raises(DataError, match="50 images do not fill one batch of 256; use --batch-size 32"):
        Order(50, 256, seed=0)
