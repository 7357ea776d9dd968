"""Measures of features and backbones that need no labels.

Only labels can say whether features separate what matters to a user. These measures show what comes before that:
whether features have collapsed, and how far pretraining has moved a backbone from where it started.
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
"""Rows of the matrix of distances computed at a time, which bounds its memory."""
_SUFFIX = ".running_mean"
_EPS = 1e-5
_ONE_ARCHITECTURE = "compare weights of one architecture"


@dataclass(frozen=True)
class BatchNormDrift:
    """How far the channels of one BatchNorm layer moved between two states a and b: symmetric, and 0 for equal states.

    The measures of the running statistics do not depend on the scale of a channel: rescaling it changes none of them.
    """

    kl: float
    """KL(a || b) + KL(b || a) of the channels' Gaussians, averaged over the channels, in nats. A few dead channels can
    dominate it; `mean` and `var` are more robust."""
    mean: float
    """|difference of the running means| / sqrt(average of both variances), averaged over the channels, in standard
    deviations."""
    var: float
    """|log of the ratio of the running variances|, averaged over the channels: 0.69 where they doubled or halved."""
    weight: float
    """|a - b| / sqrt((|a|^2 + |b|^2) / 2) of the weight vectors [C]: 0 if equal, 1.41 if orthogonal, 2 if opposite."""
    bias: float
    """The same measure of the bias vectors [C]."""


def alignment(x: Tensor, y: Tensor) -> float:
    """Mean squared distance of the L2-normalised features [n, d] of two views of the same n images: 0 (best) to 4.

    Wang & Isola 2020 (arXiv 2005.10242), section 4.1.1 with alpha = 2. A zero feature stays at the origin.

    Raises:
        HptError: there are no features, x and y differ in shape, or a feature is NaN or infinite.
    """
    if x.shape != y.shape:
        raise HptError(f"features of {_by(x)} and {_by(y)} are not of two views of the same images")
    x, y = _checked(x), _checked(y)
    return float((F.normalize(x, dim=1) - F.normalize(y, dim=1)).square().sum(dim=1).mean())


def uniformity(x: Tensor) -> float:
    """How evenly L2-normalised features [n, d] cover the sphere: log of the mean of exp(-2 |x_i - x_j|^2) over pairs.

    0 where all features coincide (collapse), approaching -4 where they are spread evenly in many dimensions. Wang &
    Isola 2020 (arXiv 2005.10242), section 4.1.2 with t = 2. O(n^2 d) time, O(n) memory: 5,000 x 2,048 take 2 s on one
    core.

    Raises:
        HptError: there are fewer than two features, or one is NaN or infinite.
    """
    x = F.normalize(_checked(x, at_least=2), dim=1)
    length = x.square().sum(dim=1)  # 1, or 0 for a zero feature
    total = 0.0
    for start in range(0, len(x), ROWS):
        some, later = slice(start, start + ROWS), slice(start, None)
        squared = length[some, None] + length[None, later] - 2 * x[some] @ x[later].T
        kernel = squared.clamp_(min=0).mul_(-2).exp_()
        total += float(kernel.triu_(diagonal=1).sum())  # each pair once, and no feature with itself
    return math.log(total / (len(x) * (len(x) - 1) / 2))


def effective_rank(x: Tensor) -> float:
    """RankMe: the number of dimensions that features [n, d] use, from 1 to min(n, d).

    exp of the entropy of p_k = sigma_k / sum(sigma) + 1e-7 over the singular values sigma of x, not centred. Garrido et
    al. 2023 (arXiv 2210.02885), equation 1. It is bounded by n, so only values at the same n are comparable, and it
    says little about the model unless n is a few times d.

    Raises:
        HptError: there are no features, all are zero, or one is NaN or infinite.
    """
    sigma = torch.linalg.svdvals(_checked(x))
    if not sigma[0] > 0:
        raise HptError("all features are zero, so they have no rank", "look at the loss of the run that made them")
    p = sigma / sigma.sum() + 1e-7
    return math.exp(-float((p * p.log()).sum()))


def cka_matrix(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Linear CKA of each representation in `a` [n, d] with each in `b` [n, e] of the same n images.

    1 where one is the other rotated, reflected, scaled and shifted; 0 where they are independent, for which the
    estimate may fall slightly below 0; NaN where one does not tell images apart, such as a layer that has collapsed.
    Kornblith et al. 2019 (arXiv 1905.00414), section 3, with the unbiased estimate of HSIC (Song et al. 2012; Nguyen et
    al. 2021, arXiv 2010.15327): the plain one approaches 1 for any two representations unless n is many times d, and
    what is compared here is 2,048 features of a few hundred images. O(n d e) time for a pair, and no n x n matrix.

    Returns:
        fp64 [len(a), len(b)].

    Raises:
        HptError: there are fewer than four images, the number of images differs, or a feature is NaN or infinite.
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

    Layers are in the order of `a`. BatchNorm's own epsilon of 1e-5 is added to the variances, as when the layer divides
    by them: changes below it in the variance of a dead channel are noise.

    Raises:
        WeightsError: there are no BatchNorm layers, `b` has other layers, or one of their tensors is NaN or infinite.
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
    """`_hsic` of x with itself, NaN where it is rounding error alone, which is of the order of 1e-16 of the square."""
    value = _hsic(x, x)
    return value if value > 1e-12 * float(x.square().sum()) ** 2 else math.nan


def _centred(x: Tensor) -> Tensor:
    centred = x - x.mean(dim=0)
    # Features that are the same for all images leave rounding errors behind.
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
