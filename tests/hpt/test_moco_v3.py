"""MoCo-v3 against its authors' own formulation, on a small ViT."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_pretraining import config, run, views
from torch import Tensor, nn

from hpt import encoder
from hpt.config import MocoV3Config, PretrainConfig
from hpt.data.images import Images
from hpt.data.loader import Order
from hpt.errors import ConfigError, Interrupted
from hpt.methods import METHODS, method_of
from hpt.moco_v3 import MoCoV3, mlp
from hpt.processes import Compute, Processes
from hpt.randomness import generator
from hpt.strategies import STRATEGIES

VIT, B, DIM, HIDDEN = "vit_tiny_patch16_224", 16, 32, 64


def settings(strategy: str = "target", **changes: object) -> PretrainConfig:
    own = {"moco": {"bn_group": B}, "moco_v3": {"hidden": HIDDEN, "dim": DIM, "warmup": 0.0}, "backbone": VIT}
    return config(strategy, **(own | changes))


class Plain(nn.Module):
    """MoCo-v3 once more, as github.com/facebookresearch/moco-v3 has it (moco/builder.py, main_moco.py), on one GPU; it
    shares only the parts' initial values with ours."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(generator(seed, "head").initial_seed())
            projector = self._build_mlp(3, 192, HIDDEN, DIM)
            self.predictor = self._build_mlp(2, DIM, HIDDEN, DIM)
        self.base_encoder = nn.Sequential(encoder.build(VIT, seed=seed, image_size=32), projector)
        self.momentum_encoder = copy.deepcopy(self.base_encoder)
        for param_m in self.momentum_encoder.parameters():
            param_m.requires_grad = False
        self.base_encoder[0].patch_embed.proj.requires_grad_(False)
        self.T = 0.2

    def _build_mlp(self, num_layers: int, input_dim: int, mlp_dim: int, output_dim: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for number in range(num_layers):
            dim1 = input_dim if number == 0 else mlp_dim
            dim2 = output_dim if number == num_layers - 1 else mlp_dim
            layers.append(nn.Linear(dim1, dim2, bias=False))
            if number < num_layers - 1:
                layers += [nn.BatchNorm1d(dim2), nn.ReLU(inplace=True)]
            else:
                layers.append(nn.BatchNorm1d(dim2, affine=False))
        return nn.Sequential(*layers)

    @torch.no_grad()
    def _update_momentum_encoder(self, m: float) -> None:
        for param_b, param_m in zip(self.base_encoder.parameters(), self.momentum_encoder.parameters(), strict=True):
            param_m.data = param_m.data * m + param_b.data * (1.0 - m)

    def contrastive_loss(self, q: Tensor, k: Tensor) -> Tensor:
        q, k = nn.functional.normalize(q, dim=1), nn.functional.normalize(k, dim=1)
        logits = torch.einsum("nc,mc->nm", [q, k]) / self.T
        return nn.CrossEntropyLoss()(logits, torch.arange(len(logits))) * (2 * self.T)

    def forward(self, x1: Tensor, x2: Tensor, m: float) -> Tensor:
        q1, q2 = self.predictor(self.base_encoder(x1)), self.predictor(self.base_encoder(x2))
        with torch.no_grad():
            self._update_momentum_encoder(m)
            k1, k2 = self.momentum_encoder(x1), self.momentum_encoder(x2)
        return self.contrastive_loss(q1, k2) + self.contrastive_loss(q2, k1)


def test_three_steps_of_a_run_are_those_of_the_authors_program(images: Images, tmp_path: Path) -> None:
    config = settings(steps=3)
    _, logged = run(config, images, tmp_path)
    ours = load_file(tmp_path / "backbone.safetensors")

    plain = Plain(config.seed)
    start = {name: value.clone() for name, value in plain.base_encoder[0].state_dict().items()}
    adamw = torch.optim.AdamW([p for p in plain.parameters() if p.requires_grad], weight_decay=0.1)
    order = Order(len(images), B, config.seed)
    for step in range(3):
        draw = order.draw(step)
        x1 = views(config, images, draw.images, draw.query)
        x2 = torch.empty_like(x1)
        x2[draw.shuffle] = views(config, images, draw.images[draw.shuffle], draw.key)
        adamw.param_groups[0]["lr"] = 1.5e-4 * B / 256 * 0.5 * (1.0 + math.cos(math.pi * step / 3))
        m = 1.0 - 0.5 * (1.0 + math.cos(math.pi * step / 3)) * (1.0 - 0.99)
        loss = plain(x1, x2, m)
        assert logged[step]["loss"] == pytest.approx(loss.item(), rel=1e-4)
        assert logged[step]["lr"] == pytest.approx(adamw.param_groups[0]["lr"])
        adamw.zero_grad()
        loss.backward()
        adamw.step()
    assert torch.equal(ours["patch_embed.proj.weight"], start["patch_embed.proj.weight"])
    for name, value in plain.base_encoder[0].state_dict().items():
        moved = (value - start[name]).abs().mean()
        if name == "norm.bias":  # BatchNorm behind it takes it away again
            continue
        # Adam moves by the sign of a gradient at first, and that of rounding errors is anybody's: the bias of keys has
        # no other gradient.
        share = 0.5 if name.endswith("qkv.bias") else 0.02
        assert (ours[name] - value).abs().mean() <= share * moved + 1e-9, name


def step(config: PretrainConfig, images: Images, micro_batch: int) -> tuple[Tensor, Tensor, MoCoV3]:
    backbone = encoder.build(VIT, seed=1, image_size=32)
    moco = MoCoV3(backbone, VIT, config.moco_v3, seed=1)
    moco.train_only(STRATEGIES["target"])
    for norm in encoder.batch_norms(moco):
        norm.group, norm.groups = 8, 4
    draw = Order(len(images), B, 5).draw(0)
    x1 = views(config, images, draw.images, draw.query)
    x2 = views(config, images, draw.images[draw.shuffle], draw.key)
    found = moco.step(
        x1.split(micro_batch), x2.split(micro_batch), draw.shuffle, Processes(1, "cpu"),
        Compute(torch.device("cpu"), bf16=False),
    )  # fmt: skip
    return *found, moco


def test_a_step_does_not_depend_on_the_micro_batch(images: Images) -> None:
    config = settings()
    loss, ranked_first, whole = step(config, images, 16)
    again, ranked_again, parts = step(config, images, 8)
    torch.testing.assert_close(loss, again)
    assert ranked_first == ranked_again
    others = dict(parts.named_parameters())
    for name, parameter in whole.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, others[name].grad, atol=1e-6, rtol=1e-3, msg=name)
    buffers = dict(parts.named_buffers())
    assert all(torch.allclose(value, buffers[name], atol=1e-6) for name, value in whole.named_buffers())


def test_the_method_follows_the_family_unless_it_is_asked_for() -> None:
    vit, convnext = encoder.build(VIT, seed=0, image_size=32), encoder.build("convnext_atto", seed=0)
    assert method_of(settings(), vit) is METHODS["moco-v3"]
    assert method_of(settings(backbone="convnext_atto"), convnext) is METHODS["moco-v2"]
    assert method_of(settings(method="moco-v2", moco={"queue_size": 32}), vit) is METHODS["moco-v2"]
    assert MoCoV3(vit, VIT, MocoV3Config(), seed=0).query.projector[0].out_features == 8 * 192
    assert [type(each).__name__ for each in mlp(4, 8, 8, 2)].count("BatchNorm1d") == 3


def test_settings_of_the_other_method_are_refused_and_not_passed_over() -> None:
    vit = encoder.build(VIT, seed=0, image_size=32)
    with pytest.raises(
        ConfigError, match=r"optimizer\.\* sets MoCo-v2, and a vit_tiny_patch16_224 is pretrained by MoCo-v3"
    ):
        METHODS["moco-v3"].build(vit, settings(optimizer={"lr": 0.1}))
    with pytest.raises(ConfigError, match=r"moco_v3\.\* sets MoCo-v3"):
        METHODS["moco-v2"].build(vit, settings())


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_in_the_same_bits(images: Images, tmp_path: Path) -> None:
    whole, _ = run(settings(steps=3), images, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(settings(steps=3), images, tmp_path / "broken", stop_after=1)
    resumed, _ = run(settings(steps=3), images, tmp_path / "broken")
    assert whole.backbone.read_bytes() == resumed.backbone.read_bytes()


def test_hpt_bn_trains_layer_norms_where_there_is_no_batch_norm(images: Images, tmp_path: Path) -> None:
    base = encoder.build(VIT, seed=9, image_size=48).state_dict()  # of other images: its positions are resized
    outcome, _ = run(settings("hpt-bn", steps=2), images, tmp_path, start=base)
    start = encoder.loaded(VIT, base, image_size=32).state_dict()
    kept = load_file(outcome.backbone)
    moved = {name for name, value in kept.items() if not torch.equal(value, start[name])}
    assert moved
    assert all("norm" in name for name in moved)


def test_layers_learn_slower_the_deeper_they_lie() -> None:
    vit = encoder.build(VIT, seed=0, image_size=32)
    config = settings(moco_v3={"layer_decay": 0.5, "hidden": HIDDEN, "dim": DIM, "freeze_patches": False})
    moco = METHODS["moco-v3"].build(vit, config)
    optimizer = METHODS["moco-v3"].optimizer(moco, config)
    before = {name: value.detach().clone() for name, value in moco.query.named_parameters()}
    for parameter in moco.query.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.weight_decay = 0.0
    optimizer.step(1.0)
    after = {name: value.detach() for name, value in moco.query.named_parameters()}
    moved = {name: float((value - before[name]).abs().mean()) for name, value in after.items()}
    assert moved["projector.0.weight"] == pytest.approx(1.0, rel=1e-3)
    assert moved["backbone.norm.weight"] == pytest.approx(1.0, rel=1e-3)
    ratio = moved["backbone.blocks.3.mlp.fc1.weight"] / moved["backbone.blocks.4.mlp.fc1.weight"]
    assert ratio == pytest.approx(0.5, rel=1e-3)
