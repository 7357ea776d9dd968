"""What can be said of features and backbones without labels.

Whether features tell apart what matters to somebody only labels can say. These figures say what precedes it: that
features have not collapsed, and how far pretraining has moved a backbone from where it started.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hpt.errors import HptError, WeightsError

ROWS = 1024
"""Features compared with all others at once: bounds the memory of the matrix of distances."""
_SUFFIX = ".running_mean"
_EPS = 1e-5
_ONE_ARCHITECTURE = "compare weights of one architecture"


@dataclass(frozen=True)
class BatchNormDrift:
    """How far one BatchNorm layer's channels moved between two states: symmetric, 0 where they are equal.

    The statistics' parts are free of each channel's scale: measuring a channel in other units changes none of them.
    """

    kl: float
    """nats: KL(a || b) + KL(b || a) of the channels' Gaussians, averaged over channels. A few dead channels can be all
    of it; the next two are less easily led."""
    mean: float
    """Standard deviations: |difference of running means| / sqrt(average of both variances), averaged over channels."""
    var: float
    """|log of the ratio of the running variances|, averaged over channels: 0.69 where they doubled or halved."""
    weight: float
    """|a - b| / sqrt((|a|^2 + |b|^2) / 2) of the weight vectors [C]: 0 equal, 1.41 orthogonal, 2 opposite."""
    bias: float
    """Likewise of the biases [C]."""


def alignment(x: Tensor, y: Tensor) -> float:
    """Mean squared distance of the L2-normalised features [n, d] of two views of the same n images: 0 (best) to 4.

    Wang & Isola 2020 (arXiv 2005.10242), section 4.1.1 with alpha = 2. A feature of zeros stays at the origin.

    Raises:
        HptError: no features, x and y of different shapes, or NaN or infinity among them.
    """
    if x.shape != y.shape:
        raise HptError(f"features of {_by(x)} and {_by(y)} are not of two views of the same images")
    x, y = _checked(x), _checked(y)
    return float((F.normalize(x, dim=1) - F.normalize(y, dim=1)).square().sum(dim=1).mean())


def uniformity(x: Tensor) -> float:
    """How evenly L2-normalised features [n, d] cover the sphere: log of the mean of exp(-2 |x_i - x_j|^2) over pairs.

    0 where all coincide (collapse), towards -4 where they are spread evenly in many dimensions. Wang & Isola 2020
    (arXiv 2005.10242), section 4.1.2 with t = 2. O(n^2 d) time, O(n) memory: 5,000 x 2,048 take 2 s on one core.

    Raises:
        HptError: fewer than two features, or NaN or infinity among them.
    """
    x = F.normalize(_checked(x, at_least=2), dim=1)
    length = x.square().sum(dim=1)  # 1, or 0 of a feature of zeros
    total = 0.0
    for start in range(0, len(x), ROWS):
        some, later = slice(start, start + ROWS), slice(start, None)
        squared = length[some, None] + length[None, later] - 2 * x[some] @ x[later].T
        total += float(
            squared.clamp_(min=0).mul_(-2).exp_().triu_(diagonal=1).sum()
        )  # each pair once, none with itself
    return math.log(total / (len(x) * (len(x) - 1) / 2))


def effective_rank(x: Tensor) -> float:
    """RankMe: how many dimensions features [n, d] use, from 1 to min(n, d).

    exp of the entropy of p_k = sigma_k / sum(sigma) + 1e-7, over the singular values sigma of x, not centred. Garrido
    et al. 2023 (arXiv 2210.02885), equation 1. Being bounded by n it is comparable at the same n only, and says
    little of the model where n is not a few times d.

    Raises:
        HptError: no features, all of them zero, or NaN or infinity among them.
    """
    sigma = torch.linalg.svdvals(_checked(x))
    if not sigma[0] > 0:
        raise HptError("all features are zero, so they have no rank", "look at the loss of the run that made them")
    p = sigma / sigma.sum() + 1e-7
    return math.exp(-float((p * p.log()).sum()))


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Similarity of two representations [n, d] and [n, e] of the same n images.

    1 where one is the other rotated, reflected, scaled and shifted; 0 where they are independent, for which the
    estimate may fall a little below 0. Kornblith et al. 2019 (arXiv 1905.00414), section 3, with the unbiased
    estimate of HSIC (Song et al. 2012; Nguyen et al. 2021, arXiv 2010.15327): the plain one nears 1 for any two
    representations unless n is many times d, and 2,048 features of a few hundred images are what there is here.
    O(n d e) time, no n x n matrix.

    Raises:
        HptError: fewer than four images, another number of them in y, features that say nothing of how images
            differ, or NaN or infinity among them.
    """
    value = float(cka_matrix([x], [y]))
    if math.isnan(value):
        raise HptError("all pairs of images are equally alike in these features, so there is nothing to compare")
    return value


def cka_matrix(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """`linear_cka` of each of `a` [n, d] with each of `b` [n, e], all of the same n images: fp64 [len(a), len(b)].

    NaN where one says nothing of how images differ, as a layer does that has collapsed.

    Raises:
        HptError: fewer than four images, another number of them somewhere, or NaN or infinity among the features.
    """
    counts = dict.fromkeys(len(each) for each in (*a, *b))
    if len(counts) > 1:
        raise HptError(f"{' and '.join(map(str, counts))} features are not of the same images")
    rows, columns = ([_centred(_checked(each, at_least=4)) for each in layers] for layers in (a, b))
    own = [torch.tensor([_own_hsic(each) for each in layers], dtype=torch.float64) for layers in (rows, columns)]
    between = torch.tensor([[_hsic(x, y) for y in columns] for x in rows], dtype=torch.float64)
    return between / torch.outer(*own).sqrt()


def batch_norm_drift(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, BatchNormDrift]:
    """How far each BatchNorm layer moved between two states of one backbone: `{"bn1": ..., "layer1.0.bn1": ...}`.

    Layers are in the order of `a`. BatchNorm's own 1e-5 is added to the variances, as when the layer divides by
    them: what the variance of a dead channel does below that is noise.

    Raises:
        WeightsError: no BatchNorm layers, other ones in `b`, or NaN or infinity among their tensors.
    """
    layers = [key.removesuffix(_SUFFIX) for key in a if key.endswith(_SUFFIX)]
    if not layers:
        raise WeightsError("there are no BatchNorm layers in these weights")
    others = {key.removesuffix(_SUFFIX) for key in b if key.endswith(_SUFFIX)}
    if odd := others.symmetric_difference(layers):
        raise WeightsError(f"only one of the two has a BatchNorm layer '{min(odd)}'", _ONE_ARCHITECTURE)
    return {layer: _drift(_layer(a, layer), _layer(b, layer), layer) for layer in layers}


def _layer(state: Mapping[str, Tensor], layer: str) -> dict[str, Tensor]:
    try:
        tensors = {
            name: _fp64(state[f"{layer}.{name}"]).cpu() for name in ("running_mean", "running_var", "weight", "bias")
        }
    except KeyError as error:
        raise WeightsError(f"the BatchNorm layer '{layer}' has no {error.args[0]}") from None
    if not all(bool(torch.isfinite(each).all()) for each in tensors.values()):
        raise WeightsError(f"the BatchNorm layer '{layer}' has NaN or infinity", "look at the loss of its run")
    return tensors


def _drift(a: dict[str, Tensor], b: dict[str, Tensor], layer: str) -> BatchNormDrift:
    if a["weight"].shape != b["weight"].shape:
        channels = f"{len(a['weight'])} and {len(b['weight'])} channels"
        raise WeightsError(f"the BatchNorm layer '{layer}' has {channels}", _ONE_ARCHITECTURE)
    shift = a["running_mean"] - b["running_mean"]  # C
    var_a, var_b = a["running_var"] + _EPS, b["running_var"] + _EPS  # C
    kl = (var_a / var_b + var_b / var_a - 2 + shift.square() * (1 / var_a + 1 / var_b)) / 2
    return BatchNormDrift(
        kl=float(kl.mean()),
        mean=float((shift.abs() / ((var_a + var_b) / 2).sqrt()).mean()),
        var=float((var_a.log() - var_b.log()).abs().mean()),
        weight=_relative(a["weight"], b["weight"]),
        bias=_relative(a["bias"], b["bias"]),
    )


def _relative(a: Tensor, b: Tensor) -> float:
    length = float((a.square().sum() + b.square().sum()) / 2) ** 0.5
    return float((a - b).norm()) / length if length else 0.0


def _hsic(x: Tensor, y: Tensor) -> float:
    """n (n - 3) times the unbiased HSIC of linear kernels, of centred x [n, d] and y [n, e].

    With K = x x^T less its diagonal, which for centred x has row sums -|x_i|^2, and L likewise, the three terms
    tr(K L) + sum(K) sum(L) / ((n - 1) (n - 2)) - 2 sum(K L) / (n - 2) come down to these.
    """
    n = len(x)
    own_x, own_y = x.square().sum(dim=1), y.square().sum(dim=1)  # n
    pairs = (x.T @ y).square().sum() - n / (n - 2) * (own_x * own_y).sum()
    return float(pairs + own_x.sum() * own_y.sum() / ((n - 1) * (n - 2)))


def _own_hsic(x: Tensor) -> float:
    """`_hsic` of x with itself, NaN where it is nothing but rounding, which is of the order of 1e-16 of the square."""
    value = _hsic(x, x)
    return value if value > 1e-12 * float(x.square().sum()) ** 2 else math.nan


def _centred(x: Tensor) -> Tensor:
    centred = x - x.mean(dim=0)
    # Of features that are the same for all images rounding leaves something
    return torch.where(centred.abs() > 1e-12 * x.abs().amax(dim=0), centred, 0.0)


def _checked(x: Tensor, *, at_least: int = 1) -> Tensor:
    if len(x) < at_least:
        raise HptError(f"there are features of {len(x)} images, {at_least} are needed at least", "use more images")
    bad = int((~torch.isfinite(x)).any(dim=1).sum())
    if bad:
        raise HptError(
            f"the features of {bad} of {len(x)} images are NaN or infinite, so nothing can be measured",
            "the weights hold NaN: look at the loss of the run that made them",
        )
    return _fp64(x)


def _fp64(x: Tensor) -> Tensor:
    x = x.detach()
    return (x.cpu() if x.device.type == "mps" else x).double()  # Apple's GPUs have no fp64


def _by(x: Tensor) -> str:
    return "x".join(map(str, x.shape))
