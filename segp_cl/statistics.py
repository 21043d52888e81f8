"""Statistics of raw features by class: sums, means, one covariance, whitening, and sampling from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from segp_cl.config import WHITENING_SHRINKAGE
from segp_cl.errors import InvalidTaskError

_ROUNDING: Final = 1e-9
_SMALLEST: Final = 1e-12  # as in `torch.nn.functional.normalize`


@dataclass(frozen=True)
class ClassSums:
    """What the visual path keeps of every class, in double precision, so that the order of tasks does not matter.

    Two of them add up exactly (`plus`), whether their classes are the same, others, or some of both. They hold as long
    as the image tower stands still; where an update moves it, `towards` or `mapped` follow.

    Attributes:
        counts: n_c, the images of each class.
        sums: s_c = Σ z, the sum of its unit-norm features.
        scatter: W = Σ z zᵀ - Σ_c s_c s_cᵀ / n_c, how features spread around the means of their classes; None: it was
            not kept, and the visual branch compares plain features.
        own: for each class a triangular factor R_c with R_cᵀ R_c = Σ z zᵀ - s_c s_cᵀ / n_c, its own part of the
            scatter, with which the class can be taken away exactly; None where that was not kept.
    """

    counts: Int64[Tensor, " classes"]
    sums: Float64[Tensor, "classes raw"]
    scatter: Float64[Tensor, "raw raw"] | None
    own: tuple[Float64[Tensor, "_ raw"] | None, ...] | None = None

    @classmethod
    def estimate(
        cls,
        prototypes: Float[Tensor, "classes raw"],
        covariance: Float[Tensor, "raw raw"] | None,
        counts: Int64[Tensor, " classes"],
    ) -> ClassSums:
        """Return the sums that most likely led to these prototypes, where the sums themselves were not kept.

        Within a class, unit features have a mean m with |m|² = 1 - tr Σ on average over the classes.
        """
        length, scatter = 1.0, None
        if covariance is not None:
            length = float((1 - covariance.double().trace()).clamp(min=0).sqrt())
            scatter = covariance.double() * counts.sum()
        return cls(counts, length * counts[:, None] * prototypes.double(), scatter)

    @property
    def means(self) -> Float[Tensor, "classes raw"]:
        """μ_c of unit norm (eq. 23); zero where all features of a class were zero or cancel out."""
        return F.normalize(self.sums, dim=-1).float()

    @property
    def covariance(self) -> Float[Tensor, "raw raw"] | None:
        """W / N: the covariance within the classes."""
        return None if self.scatter is None else (self.scatter / self.counts.sum().clamp(min=1)).float()

    def plus(self, other: ClassSums, rows: Sequence[int]) -> ClassSums:
        """Add `other`, whose class i is class `rows[i]` here; rows beyond the present ones are new classes.

        A scatter that one side did not keep is taken to be like that of the other.
        """
        place = torch.tensor(rows, dtype=torch.int64)
        extended = max([len(self.counts) - 1, *rows]) + 1
        counts = self.counts.new_zeros(extended)
        counts[: len(self.counts)] = self.counts
        sums = self.sums.new_zeros(extended, other.sums.shape[1])
        sums[: len(self.counts)] = self.sums
        scatter = self._spread_of_both(other)
        if scatter is not None:
            mine, theirs = counts[place].double(), other.counts.double()
            between = sums[place] / mine.clamp(min=1)[:, None] - other.sums / theirs.clamp(min=1)[:, None]
            weight = mine * theirs / (mine + theirs).clamp(min=1)
            scatter = scatter + between.T @ (weight[:, None] * between)
        own = self._own_of_both(other, rows, extended)
        return ClassSums(counts.index_add(0, place, other.counts), sums.index_add(0, place, other.sums), scatter, own)

    def minus(self, other: ClassSums, rows: Sequence[int]) -> ClassSums:
        """Take `other` away again, whose class i is class `rows[i]` here: `other.plus(rest, ...)` gives this back.

        The classes stay in their places; those of which nothing is left have no images.

        Raises:
            ValueError: `other` has images that are not part of these.
        """
        place = torch.tensor(rows, dtype=torch.int64)
        counts = self.counts.index_add(0, place, other.counts, alpha=-1)
        if bool((counts < 0).any()):
            raise ValueError("these sums are not part of the others")
        left = counts.double()[:, None]
        sums = torch.where(left > 0, self.sums.index_add(0, place, other.sums, alpha=-1), 0.0)
        if self.scatter is None or not int(other.counts.sum()):
            return ClassSums(counts, sums, self.scatter)
        if other.scatter is None:
            return ClassSums(counts, sums, self.scatter * (counts.sum() / self.counts.sum()))
        theirs = other.counts.double()[:, None]
        between = sums[place] / left[place].clamp(min=1) - other.sums / theirs.clamp(min=1)
        weight = left[place] * theirs / (left[place] + theirs).clamp(min=1)
        return ClassSums(counts, sums, self.scatter - other.scatter - between.T @ (weight * between))

    def forgotten(self, row: int) -> ClassSums:
        """Take a whole class away; the classes after it move up. Exact where the class's own scatter was kept.

        Elsewhere the scatter is scaled to the images that are left, as if all classes spread alike.
        """
        left = [here for here in range(len(self.counts)) if here != row]
        scatter, factor = self.scatter, None if self.own is None else self.own[row]
        if scatter is not None and int(self.counts[row]):
            if factor is not None:
                scatter = scatter - factor.T @ factor
            else:
                scatter = scatter * (self.counts[left].sum() / self.counts.sum())
        own = None if self.own is None else tuple(self.own[here] for here in left)
        return ClassSums(self.counts[left], self.sums[left], scatter, own)

    def joined(self, row: int, other: int) -> ClassSums:
        """Make two classes one, in the place of `row`, as if it had been taught with the images of both."""
        place = sorted({*range(len(self.counts))} - {other})
        alone = ClassSums(
            self.counts[[other]],
            self.sums[[other]],
            None if self.scatter is None else torch.zeros_like(self.scatter),  # it stays in the sum of both
            None if self.own is None else (self.own[other],),
        )
        rest = ClassSums(
            self.counts[place],
            self.sums[place],
            self.scatter,
            None if self.own is None else tuple(self.own[here] for here in place),
        )
        return rest.plus(alone, [place.index(row)])

    def without(self, unit: Float64[Tensor, " raw"], row: int) -> ClassSums:
        """Return the sums without one of the images that are in them, of class `row`, which has another one."""
        counts, sums = self.counts.clone(), self.sums.clone()
        counts[row] -= 1
        sums[row] -= unit
        if self.scatter is None:
            return ClassSums(counts, sums, None)
        apart, weight = _apart(self.counts, self.sums, unit, row)
        return ClassSums(counts, sums, self.scatter - weight * torch.outer(apart, apart))

    def towards(self, means: Float[Tensor, "classes raw"]) -> ClassSums:
        """Return the sums of the same images after the tower moved: new directions, the same lengths and scatter."""
        return replace(self, sums=self.sums.norm(dim=-1, keepdim=True) * means.double(), own=None)

    def mapped(self, matrix: Float64[Tensor, "raw raw"], noise: Float64[Tensor, "raw raw"]) -> ClassSums:
        """Return the sums of the same images with each feature z moved to z M + e, e of covariance `noise`."""
        scatter = self.scatter
        if scatter is not None:
            scatter = matrix.T @ scatter @ matrix + self.counts.sum() * noise
        return ClassSums(self.counts, self.sums @ matrix, scatter)

    def _own_of_both(
        self, other: ClassSums, rows: Sequence[int], classes: int
    ) -> tuple[Float64[Tensor, "_ raw"] | None, ...] | None:
        if self.own is None and other.own is None:
            return None
        kept = [*(self.own or [None] * len(self.counts)), *[None] * (classes - len(self.counts))]
        for label, row in enumerate(rows):
            known = int(self.counts[row]) if row < len(self.counts) else 0
            more, factor = int(other.counts[label]), None if other.own is None else other.own[label]
            mine = kept[row]
            if not known:
                kept[row] = factor
            elif more and (mine is None or factor is None):
                kept[row] = None
            elif more:
                assert mine is not None
                assert factor is not None
                apart = self.sums[row] / known - other.sums[label] / more
                between = (known * more / (known + more)) ** 0.5 * apart[None]
                kept[row] = _triangular(torch.cat([mine, factor, between]))
        return tuple(kept)

    def _spread_of_both(self, other: ClassSums) -> Float64[Tensor, "raw raw"] | None:
        mine, theirs = int(self.counts.sum()), int(other.counts.sum())
        if self.scatter is None or other.scatter is None:
            known, images = (self.scatter, mine) if other.scatter is None else (other.scatter, theirs)
            return None if known is None or not images else known * ((mine + theirs) / images)
        return self.scatter + other.scatter


def _triangular(factor: Float64[Tensor, "_ raw"]) -> Float64[Tensor, "_ raw"]:
    """Return R with RᵀR = FᵀF and no more rows than columns: all that it says of the rows of F is that product."""
    triangular: Tensor = torch.linalg.qr(factor, mode="r").R
    return triangular


def _apart(
    counts: Int64[Tensor, " classes"],
    sums: Float64[Tensor, "classes raw"],
    unit: Float64[Tensor, "*batch raw"],
    rows: Int64[Tensor, " batch"] | int,
) -> tuple[Float64[Tensor, "*batch raw"], Float64[Tensor, "*batch"]]:
    """Return d = z - m_c and n/(n - 1) of features z: without one of them the scatter is W - n/(n - 1) d dᵀ."""
    images = counts[rows].double()
    assert bool((images > 1).all()), "a class without its only image has no mean"
    return unit - sums[rows] / images[..., None], images / (images - 1)


class MomentSums:
    """Sums over a stream of raw features, from which means (eq. 23) and the covariance follow at any time.

    They are stored in double precision, so the batch size has no influence. A feature of norm zero adds nothing; if a
    class has no other, its prototype is zero and its visual score 0 for every image.
    """

    def __init__(self, classes: int, *, keep_own: bool = False) -> None:
        self._counts = torch.zeros(classes, dtype=torch.int64)
        self._sums = torch.empty(0)
        self._products = torch.empty(0)
        self._own: list[Tensor] | None = [torch.empty(0)] * classes if keep_own else None

    def add(self, raw: Float[Tensor, "batch raw"], labels: Int64[Tensor, " batch"]) -> None:
        """Add a batch: raw features of any norm, and each image's class in [0, classes)."""
        if self._sums.numel() == 0:
            self._sums = torch.zeros(len(self._counts), raw.shape[-1], dtype=torch.float64)
            self._products = torch.zeros(raw.shape[-1], raw.shape[-1], dtype=torch.float64)
        labels = labels.cpu()
        unit = F.normalize(raw.detach().cpu().double(), dim=-1)
        if self._own is not None:
            for label in sorted(set(labels.tolist())):
                self._own[label] = self._spread(label, unit[labels == label])
        self._sums.index_add_(0, labels, unit)
        self._products += unit.T @ unit
        self._counts += torch.bincount(labels, minlength=len(self._counts))

    def _spread(self, label: int, unit: Float64[Tensor, "batch raw"]) -> Float64[Tensor, "_ raw"]:
        """Return a factor of a class's own scatter with more images, which are not in its count and sum yet."""
        assert self._own is not None
        known, more = int(self._counts[label]), len(unit)
        mean = unit.mean(dim=0)
        rows = [unit - mean]
        if known:
            apart = self._sums[label] / known - mean
            rows += [self._own[label], (known * more / (known + more)) ** 0.5 * apart[None]]
        factor = torch.cat(rows)
        return _triangular(factor) if len(factor) > factor.shape[1] else factor

    def total(self) -> ClassSums:
        """Return what was added so far.

        Raises:
            InvalidTaskError: a class had no image.
        """
        if not bool((self._counts > 0).all()):
            missing = (self._counts == 0).nonzero().flatten().tolist()
            raise InvalidTaskError(f"every class needs an image for its prototype; got none for classes {missing}")
        between = self._sums.T @ (self._sums / self._counts[:, None])
        own = None if self._own is None else tuple(_triangular(factor) for factor in self._own)
        return ClassSums(self._counts.clone(), self._sums.clone(), self._products - between, own)


class FeatureSampler:
    """Samples raw features of classes from their stored statistics: N(|m| μ_c, Σ) in the space of unit features.

    Within a class, unit features have a mean m shorter than 1 and covariance Σ, with |m|² = 1 - tr Σ.

    Args:
        prototypes: μ_c, unit norm.
        covariance: Σ; None: samples are the prototypes themselves.
    """

    def __init__(self, prototypes: Float[Tensor, "old raw"], covariance: Float[Tensor, "raw raw"] | None) -> None:
        self._means, self._factor = prototypes, None
        if covariance is not None:
            self._factor = _factor(covariance.double()).to(prototypes)
            self._means = prototypes * (1 - covariance.trace()).clamp(min=0).sqrt()

    def draw(
        self, classes: Int64[Tensor, " drawn"], norm: Float[Tensor, ""], *, generator: torch.Generator
    ) -> Float[Tensor, "drawn raw"]:
        """Sample one feature for each entry of `classes`, scaled to the raw features' usual `norm`."""
        means = self._means[classes.to(self._means.device)]
        if self._factor is None:
            return norm * means
        noise = torch.randn(means.shape, generator=generator).to(means)
        drawn: Tensor = norm * (means + noise @ self._factor.T)
        return drawn

    def mapped(
        self,
        matrix: Float[Tensor, "out raw"],
        norm: Float[Tensor, ""],
        *,
        rows: int,
        generator: torch.Generator,
    ) -> MappedSampler:
        """Return a sampler of M r for features r scaled to `norm`, M the `matrix`.

        All classes vary alike, so `rows` rows of noise are drawn and mapped once, for all of them.
        """
        means = norm * self._means @ matrix.T
        if self._factor is None:
            return MappedSampler(means, torch.zeros(1, len(matrix)).to(means))
        noise = torch.randn(rows, self._means.shape[1], generator=generator).to(means)
        return MappedSampler(means, norm * noise @ (matrix @ self._factor).T)


@dataclass(frozen=True)
class MappedSampler:
    """Samples what a linear map makes of features. A sample is its class's `means` row and any row of `noise`."""

    means: Float[Tensor, "seen out"]
    noise: Float[Tensor, "rows out"]

    def draw(self, classes: Int64[Tensor, " drawn"], *, generator: torch.Generator) -> Float[Tensor, "drawn out"]:
        """Sample one for each entry of `classes`."""
        rows = torch.randint(len(self.noise), classes.shape, generator=generator)
        drawn: Tensor = self.means[classes.to(self.means.device)] + self.noise[rows.to(self.noise.device)]
        return drawn


def _factor(covariance: Float64[Tensor, "raw raw"]) -> Float64[Tensor, "raw raw"]:
    """Return L with L Lᵀ = Σ, to a millionth of the mean variance: Σ of few images has no inverse."""
    variance = covariance.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
    identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(covariance + 1e-6 * variance * identity)
    if not int(failed):
        return factor
    values, vectors = torch.linalg.eigh(covariance)  # rounding has made it indefinite
    rooted: Tensor = vectors * values.clamp(min=0).sqrt()
    return rooted


@dataclass(frozen=True)
class Whitening:
    """The space in which features vary equally in all directions within a class.

    Directions in which images of one class differ (lighting, pose) count for less there than in the raw space. Not in
    the paper; see docs/adr/0009. `offset`, if there is one, moves the middle of all classes to the origin
    (docs/adr/0028).
    """

    matrix: Float[Tensor, "raw raw"]
    offset: Float[Tensor, " raw"] | None = None

    @classmethod
    def of(cls, covariance: Float[Tensor, "raw raw"], *, shrinkage: float) -> Whitening | None:
        """Compute the inverse Cholesky factor of Σ + `shrinkage` * mean variance * I; None if there is no variance."""
        variance = covariance.diagonal().mean()
        if not bool(variance > 0):
            return None
        identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
        factor = torch.linalg.cholesky(covariance + shrinkage * variance * identity)
        return cls(torch.linalg.solve_triangular(factor, identity, upper=False))

    def around(self, centre: Float[Tensor, " raw"]) -> Whitening:
        """Return the same space with `centre` at the origin."""
        return Whitening(self.matrix, -(self.matrix @ centre))

    @property
    def squared(self) -> Float[Tensor, ""]:
        """The sum of the matrix's squares: the trace of the inverse of what was inverted."""
        return self.matrix.square().sum()

    def __call__(self, features: Float[Tensor, "batch raw"]) -> Float[Tensor, "batch raw"]:
        """Map normalised features, or means of them, to this space. Their lengths mean something there."""
        return F.linear(features, self.matrix, self.offset)

    def to(self, like: Tensor) -> Whitening:
        """Return this on the device and in the precision of `like`."""
        return Whitening(self.matrix.to(like), None if self.offset is None else self.offset.to(like))


def is_centred(whitening: Whitening | None) -> bool:
    """Return whether cosines are taken around the middle of several classes, so that 0 is that of a usual image."""
    return whitening is not None and whitening.offset is not None


def visual_space(sums: ClassSums) -> tuple[Whitening | None, Float[Tensor, "classes raw"]]:
    """Return the whitening of the visual branch, if there is one, and what features are compared with in that space.

    The middle of all class means is the origin: what all images have in common would otherwise give every class that
    was taught with few images an offset of its own. A mean of n images is their class's plus noise of 1/n of the
    variance within a class, so its cosines are smaller by sqrt(λ / (λ + noise/n)), λ the variance between classes. That
    is set right for classes of fewer images than the largest, whose vectors are of unit norm; those of the others are
    longer. Solved in double precision; the result is float32. See docs/adr/0028.
    """
    whitening = None
    if sums.scatter is not None and int(sums.counts.sum()):
        whitening = Whitening.of(sums.scatter / sums.counts.sum(), shrinkage=WHITENING_SHRINKAGE)
    if whitening is None:
        return None, sums.means
    assert sums.scatter is not None
    variance = sums.scatter.diagonal().mean() / sums.counts.sum()
    centred, towards = _centred(sums, variance, whitening)
    like = torch.empty(0)
    return centred.to(like), towards.to(like)


def _centred(
    sums: ClassSums, variance: Float64[Tensor, ""], whitening: Whitening
) -> tuple[Whitening, Float64[Tensor, "classes raw"]]:
    """Return the whitening around the middle of the classes, and what is compared with there.

    Args:
        sums: of the classes.
        variance: the mean variance within the classes.
        whitening: not centred.
    """
    images = sums.counts.clamp(min=1).double()
    means = sums.sums / images[:, None]
    if len(means) > 1:
        whitening = whitening.around(means.mean(dim=0))
    mapped = whitening(means)
    towards = F.normalize(mapped, dim=-1)
    count = int(sums.counts.sum())
    if count <= len(means):
        return whitening, towards
    noise = count * whitened_variance(mapped.shape[1], variance, whitening.squared) / (count - len(means))
    return whitening, towards / attenuation(mapped.square().sum(dim=1), noise / images)[:, None]


def attenuation(
    squares: Float64[Tensor, "*batch classes"], noise: Float64[Tensor, "*batch classes"]
) -> Float64[Tensor, "*batch classes"]:
    """By how much the cosines of each class are smaller than those of the class with most images, in (0, 1].

    Args:
        squares: of the lengths of the classes' means, whitened, around their middle.
        noise: the part of each that is its images' own variance.
    """
    between = (squares - noise).clamp(min=0).mean(dim=-1, keepdim=True)
    reliability = between / (between + noise)
    smaller = (reliability / reliability.amax(dim=-1, keepdim=True)).sqrt()
    return torch.where(between > 0, smaller, torch.ones_like(smaller))


def whitened_variance(
    width: int, variance: Float64[Tensor, "*batch"], squared: Float64[Tensor, "*batch"]
) -> Float64[Tensor, "*batch"]:
    """Return the trace of the covariance within the classes after it was whitened, without a product of matrices.

    It is what the shrinkage leaves of one for each of the `width` directions.

    Args:
        width: of raw features.
        variance: the mean one of a direction, before.
        squared: `Whitening.squared`.
    """
    return width - WHITENING_SHRINKAGE * variance * squared


class LeaveOneOut:
    """Visual scores of images in sums, each against the sums without it: `visual_space(sums.without(...))`, exactly.

    Scatter and shrinkage change with every image that is left out. In the basis of the scatter's eigenvectors, which
    are computed once, the new matrix is a diagonal and a change of rank one, whose inverse is one of the same form
    (Sherman and Morrison, 1950): so cosines in the whitened space are products of matrices, for many images at once.

    Args:
        sums: the images are part of these.
    """

    def __init__(self, sums: ClassSums) -> None:
        self._sums, self._values = sums, torch.empty(0)
        if sums.scatter is not None:
            values, self._basis = torch.linalg.eigh(sums.scatter)
            self._values = values.clamp(min=0)
            self._turned = sums.sums @ self._basis

    def scores(self, raw: Float[Tensor, "batch raw"], rows: Int64[Tensor, " batch"]) -> Float[Tensor, "batch classes"]:
        """Return s_v of images over all classes, where each one's own class is known by its other images alone.

        Args:
            raw: the images' raw features, of any norm, on the CPU.
            rows: their classes, of two images at least.
        """
        unit = F.normalize(raw.double(), dim=-1)
        counts = self._sums.counts
        if self._sums.scatter is None or int(counts.sum()) - 1 <= len(counts):
            return self._plain(unit, rows).float()
        turned = unit @ self._basis
        apart, weight = _apart(counts, self._turned, turned, rows)
        left = self._values.sum() - weight * apart.square().sum(dim=1)
        flat = left <= _ROUNDING * self._values.sum()
        found = self._whitened(turned, rows, apart, weight, left)
        if bool(flat.any()):
            found[flat] = self._plain(unit[flat], rows[flat])
        return found.float()

    def _plain(
        self, unit: Float64[Tensor, "batch raw"], rows: Int64[Tensor, " batch"]
    ) -> Float64[Tensor, "batch classes"]:
        own = F.normalize(self._sums.sums[rows] - unit, dim=-1)
        return (unit @ self._sums.means.double().T).scatter(1, rows[:, None], (unit * own).sum(dim=1)[:, None])

    def _whitened(
        self,
        turned: Float64[Tensor, "batch raw"],
        rows: Int64[Tensor, " batch"],
        apart: Float64[Tensor, "batch raw"],
        weight: Float64[Tensor, " batch"],
        left: Float64[Tensor, " batch"],
    ) -> Float64[Tensor, "batch classes"]:
        """Return the scores by matrices M⁻¹ = D + γ u uᵀ, D diagonal, one for each image.

        Args:
            turned: unit-norm features in the basis.
            rows: their classes.
            apart: d, how far each feature lies from its class's mean.
            weight: n/(n - 1).
            left: the trace of the scatter without the image.
        """
        counts, classes, width = self._sums.counts, len(self._sums.counts), turned.shape[1]
        count = int(counts.sum()) - 1
        variance = left / width / count
        diagonal = 1 / (self._values / count + WHITENING_SHRINKAGE * variance[:, None])
        direction = apart * diagonal
        # a feature that was computed in another batch is not to the last bit what was summed
        kept = (1 - weight / count * (apart * direction).sum(dim=1)).clamp(min=_ROUNDING)
        gain = weight / count / kept

        def dot(one: Tensor, other: Tensor) -> Tensor:
            product: Tensor = torch.linalg.vecdot(one, other)
            return product

        def whitened(one: Tensor, other: Tensor) -> Tensor:
            return dot(one * diagonal, other) + gain * dot(one, direction) * dot(other, direction)

        means = self._turned / counts.clamp(min=1)[:, None]
        own = (self._turned[rows] - turned) / (counts[rows] - 1)[:, None]
        middle = means.mean(dim=0) if classes > 1 else torch.zeros(width, dtype=means.dtype)
        shift = (own - means[rows]) / classes if classes > 1 else torch.zeros_like(own)  # of the middle, by the image
        means = means - middle
        query, own = turned - middle - shift, own - middle - shift

        along = direction @ means.T - dot(direction, shift)[:, None]
        crossed = (query * diagonal) @ means.T - dot(query * diagonal, shift)[:, None]
        crossed = crossed + (gain * dot(query, direction))[:, None] * along
        squares = diagonal @ means.square().T - 2 * (diagonal * shift) @ means.T
        squares = squares + dot(diagonal * shift, shift)[:, None] + gain[:, None] * along.square()
        at = rows[:, None]
        crossed = crossed.scatter(1, at, whitened(query, own)[:, None])
        squares = squares.scatter(1, at, whitened(own, own)[:, None]).clamp(min=0)
        lengths = whitened(query, query).clamp(min=0).sqrt()[:, None] * squares.sqrt()

        images = counts.clamp(min=1) - F.one_hot(rows, classes)
        squared = diagonal.sum(dim=1) + gain * dot(direction, direction)
        noise = count * whitened_variance(width, variance, squared) / (count - classes)
        cosines: Tensor = crossed / lengths.clamp(min=_SMALLEST)
        return cosines / attenuation(squares, noise[:, None] / images)


def visual_space_of_old(
    prototypes: Float[Tensor, "classes raw"], covariance: Float[Tensor, "raw raw"] | None
) -> tuple[Whitening | None, Float[Tensor, "classes raw"]]:
    """Return the same for a version that kept no sums, which answers as it always did: whitened, not centred."""
    if covariance is None:
        return None, prototypes
    whitening = Whitening.of(covariance, shrinkage=WHITENING_SHRINKAGE)
    return whitening, prototypes if whitening is None else F.normalize(whitening(prototypes), dim=-1)
