from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from hpt import encoder
from hpt.errors import HptError, WeightsError
from hpt.randomness import generator
from hpt.representation import alignment, batch_norm_drift, cka_matrix, effective_rank, uniformity


def normal(*shape: int, step: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(0, "test", step))


def linear_cka(x: Tensor, y: Tensor) -> float:
    return float(cka_matrix([x], [y]))


def circle(n: int, *, share: float = 1.0) -> Tensor:
    angle = torch.arange(n, dtype=torch.float64) * (2 * math.pi * share / n)
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def rotation(d: int) -> Tensor:
    return torch.linalg.qr(normal(d, d, step=9).double()).Q


def test_alignment_is_the_squared_distance_on_the_sphere() -> None:
    x = normal(50, 8)
    assert alignment(x, 3 * x) == pytest.approx(0, abs=1e-12)
    assert alignment(x, -x) == pytest.approx(4)
    assert alignment(circle(12), circle(12).roll(3, dims=0)) == pytest.approx(2)  # a quarter turn
    y = normal(50, 8, step=1)
    assert alignment(x, y) == pytest.approx(float(2 - 2 * torch.cosine_similarity(x, y).mean()), abs=1e-6)


def test_uniformity_falls_as_features_spread() -> None:
    n = 600
    # Of points spread evenly on a circle, by the angle t between two: mean of exp(-2 (2 - 2 cos t))
    between = torch.arange(1, n, dtype=torch.float64) * (2 * math.pi / n)
    spread = math.log(float((-4 + 4 * between.cos()).exp().mean()))
    assert uniformity(circle(n)) == pytest.approx(spread, abs=1e-12)
    assert spread == pytest.approx(math.log(math.exp(-4) * torch.special.i0(torch.tensor(4.0))), abs=0.01)  # n -> oo
    assert spread < uniformity(circle(n, share=0.5)) < uniformity(circle(n, share=0.05)) < 0
    assert uniformity(normal(1, 2).expand(n, 2) * torch.linspace(1, 5, n)[:, None]) == pytest.approx(0, abs=1e-6)
    assert uniformity(torch.zeros(n, 2)) == 0
    assert uniformity(normal(2000, 512)) == pytest.approx(-4, abs=0.02)


def test_uniformity_is_the_same_in_parts_as_in_one() -> None:
    x = normal(2500, 6)
    pairs = torch.pdist(nn.functional.normalize(x.double(), dim=1)).square()
    assert uniformity(x) == pytest.approx(math.log(float((-2 * pairs).exp().mean())), abs=1e-12)


@pytest.mark.parametrize("k", [1, 3, 16])
def test_the_effective_rank_of_k_equal_directions_is_k(k: int) -> None:
    orthonormal = torch.linalg.qr(normal(200, k).double()).Q @ rotation(16)[:k]  # 200 x 16, k singular values of 1
    assert effective_rank(7 * orthonormal) == pytest.approx(k, rel=1e-4)
    assert effective_rank(orthonormal.float()) == pytest.approx(k, rel=1e-4)


def test_the_effective_rank_is_the_exponential_of_the_entropy() -> None:
    sigma = torch.tensor([4.0, 2.0, 1.0, 1.0], dtype=torch.float64)
    x = torch.linalg.qr(normal(30, 4).double()).Q @ sigma.diag() @ rotation(4)
    assert effective_rank(x) == pytest.approx(2**1.75, rel=1e-5)  # entropy of 1/2, 1/4, 1/8, 1/8: 1.75 bits
    assert effective_rank(normal(1, 16)) == pytest.approx(1, rel=1e-5)  # one image
    flat = torch.zeros(300, 300)
    flat[:, 0] = 1
    added = -299e-7 * math.log(1e-7)  # RankMe's 1e-7 on each singular value that is 0
    assert effective_rank(flat) == pytest.approx(math.exp(added), rel=1e-6)


def test_cka_does_not_see_rotations_scales_and_shifts_and_sees_the_rest() -> None:
    x, y = normal(300, 12).double(), normal(300, 12).double() @ normal(12, 20, step=1).double()
    y = y + 2 * normal(300, 20, step=2)
    assert linear_cka(x, x) == pytest.approx(1, abs=1e-12)
    assert linear_cka(x, 0.001 * x @ rotation(12) + 5) == pytest.approx(1, abs=1e-9)
    between = linear_cka(x, y)
    assert 0.2 < between < 0.95
    assert linear_cka(y, x) == pytest.approx(between, abs=1e-12)
    assert linear_cka(30 * x @ rotation(12) - 7, y @ rotation(20) / 9 + 1) == pytest.approx(between, abs=1e-9)
    assert linear_cka(x @ torch.linspace(0.01, 9, 12).double().diag(), x) < 0.95  # any other linear map is seen


def test_cka_is_the_u_statistic_over_pairs_of_images() -> None:
    """Song et al. 2012, equation 5: with n x n matrices, as it is defined."""
    x, y = normal(40, 6).double() + 3, normal(40, 6).double() @ normal(6, 9, step=1).double() + normal(40, 9, step=2)

    def hsic(a: Tensor, b: Tensor) -> Tensor:
        n = len(a)
        k, m = (z @ z.T * (1 - torch.eye(n)) for z in (a, b))
        return (k * m).sum() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ m).sum()

    expected = hsic(x, y) / (hsic(x, x) * hsic(y, y)).sqrt()
    assert linear_cka(x, y) == pytest.approx(float(expected), abs=1e-12)


def test_cka_of_unrelated_features_is_0_though_they_are_longer_than_the_images_are_many() -> None:
    x, y = normal(100, 1000).double(), normal(100, 1000, step=1).double()
    a, b = x - x.mean(0), y - y.mean(0)
    plain = (a.T @ b).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm())
    assert plain > 0.85  # what the plain estimate would have us believe
    assert linear_cka(x, y) == pytest.approx(0, abs=0.1)


def test_a_matrix_of_cka_holds_each_pairs_and_nothing_of_a_layer_that_has_collapsed() -> None:
    x, y, z = normal(60, 12), normal(60, 12) @ normal(12, 20, step=1), normal(60, 5, step=2)
    dead = torch.zeros(60, 8)
    found = cka_matrix([x, dead, z], [y, z])
    assert found.shape == (3, 2)
    assert found[[0, 2]].flatten().tolist() == pytest.approx(
        [linear_cka(each, other) for each in (x, z) for other in (y, z)], abs=1e-12
    )
    assert found[2, 1] == pytest.approx(1)
    assert found[1].isnan().all()
    with pytest.raises(HptError, match="60 and 59 features are not of the same images"):
        cka_matrix([x, y], [z[:59]])


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """A ResNet-18 whose BatchNorm layers are not as they were initialised."""
    state = encoder.build("resnet18", seed=0).state_dict()
    for step, (key, value) in enumerate(state.items()):
        if key.endswith((".running_mean", ".bias")):
            value.copy_(normal(*value.shape, step=step))
        elif value.dim() == 1:
            value.copy_(normal(*value.shape, step=step).exp())
    return state


def test_equal_states_have_not_drifted(state: dict[str, Tensor]) -> None:
    drift = batch_norm_drift(state, {key: value.clone() for key, value in state.items()})
    layers = [name for name, module in encoder.build("resnet18", seed=0).named_modules() if name and "bn" in name]
    assert [name for name in drift if "downsample" not in name] == layers
    assert len(drift) == len(encoder.batch_norms(encoder.build("resnet18", seed=0))) == 20
    for each in drift.values():
        assert (each.kl, each.mean, each.var, each.weight, each.bias) == (0, 0, 0, 0, 0)


def test_drift_is_the_divergence_of_the_channels_gaussians(state: dict[str, Tensor]) -> None:
    moved = dict(state)
    mean, var = state["bn1.running_mean"], state["bn1.running_var"]
    moved["bn1.running_mean"], moved["bn1.running_var"] = mean + normal(64, step=1), var * normal(64, step=2).exp()
    drift = batch_norm_drift(state, moved)

    a, b = (
        Normal(s["bn1.running_mean"].double(), (s["bn1.running_var"].double() + 1e-5).sqrt()) for s in (state, moved)
    )
    assert drift["bn1"].kl == pytest.approx(float((kl_divergence(a, b) + kl_divergence(b, a)).mean()), rel=1e-9)
    assert {name for name, each in drift.items() if each.kl} == {"bn1"}
    assert batch_norm_drift(moved, state)["bn1"] == drift["bn1"]


def test_the_parts_of_drift_read_as_they_are_named(state: dict[str, Tensor]) -> None:
    moved = dict(state)
    moved["bn1.running_var"] = torch.full((64,), 4.0)
    state = state | {"bn1.running_var": torch.full((64,), 4.0)}
    moved["bn1.running_mean"] = state["bn1.running_mean"] + 1  # half a standard deviation
    moved["layer1.0.bn1.running_var"] = state["layer1.0.bn1.running_var"] * 2
    moved["layer1.0.bn2.weight"] = -state["layer1.0.bn2.weight"]
    moved["layer1.0.bn2.bias"] = torch.zeros(64)
    drift = batch_norm_drift(state, moved)
    assert (drift["bn1"].mean, drift["bn1"].var) == (pytest.approx(0.5, rel=1e-5), 0)
    assert (drift["layer1.0.bn1"].mean, drift["layer1.0.bn1"].var) == (0, pytest.approx(math.log(2), rel=1e-3))
    assert drift["layer1.0.bn2"].weight == pytest.approx(2)
    assert drift["layer1.0.bn2"].bias == pytest.approx(math.sqrt(2))
    assert drift["layer1.0.bn2"].kl == 0


def test_drift_does_not_depend_on_the_channels_scales(state: dict[str, Tensor]) -> None:
    moved = {key: value + 0.3 * value.abs() if value.is_floating_point() else value for key, value in state.items()}
    scale = normal(64, step=3).exp() + 1

    def in_other_units(one: dict[str, Tensor]) -> dict[str, Tensor]:
        return one | {
            "bn1.running_mean": one["bn1.running_mean"] * scale,
            "bn1.running_var": (one["bn1.running_var"].double() + 1e-5) * scale.double() ** 2 - 1e-5,
        }

    before, after = batch_norm_drift(state, moved)["bn1"], batch_norm_drift(*map(in_other_units, (state, moved)))["bn1"]
    assert before.kl > 0.01
    assert (after.kl, after.mean, after.var) == pytest.approx((before.kl, before.mean, before.var), rel=1e-5)


def test_what_cannot_be_measured_is_refused(state: dict[str, Tensor]) -> None:
    x = normal(10, 4)
    broken = x.clone()
    broken[2, 1] = math.nan
    for measure in (uniformity, effective_rank, lambda z: linear_cka(z, x), lambda z: alignment(x, z)):
        with pytest.raises(HptError, match="features of 1 of 10 images are NaN or infinite"):
            measure(broken)
    with pytest.raises(HptError, match="features of 1 images, 2 are needed"):
        uniformity(x[:1])
    with pytest.raises(HptError, match="features of 3 images, 4 are needed"):
        linear_cka(x[:3], x[:3])
    with pytest.raises(HptError, match="10 and 9 features"):
        linear_cka(x, x[:9])
    with pytest.raises(HptError, match="10x4 and 10x3 are not of two views"):
        alignment(x, x[:, :3])
    with pytest.raises(HptError, match="all features are zero"):
        effective_rank(torch.zeros(10, 4))
    for same in (normal(1, 4, step=1).expand(10, 4), torch.eye(10)):  # one point; all pairs equally far apart
        assert math.isnan(linear_cka(x, same))

    with pytest.raises(WeightsError, match="no BatchNorm layers"):
        batch_norm_drift(nn.Linear(2, 2).state_dict(), state)
    with pytest.raises(WeightsError, match=r"only one of the two has a BatchNorm layer 'layer1\.0\.bn3'"):
        batch_norm_drift(state, encoder.build("resnet50", seed=0).state_dict())
    with pytest.raises(WeightsError, match="'bn1' has 64 and 2 channels; compare weights of one architecture"):
        batch_norm_drift(state, state | {f"bn1.{key}": value for key, value in nn.BatchNorm2d(2).state_dict().items()})
    with pytest.raises(WeightsError, match="'bn1' has NaN"):
        batch_norm_drift(state, state | {"bn1.bias": torch.full((64,), math.nan)})
    with pytest.raises(WeightsError, match=r"'bn1' has no bn1\.weight"):
        batch_norm_drift({key: value for key, value in state.items() if key != "bn1.weight"}, state)
