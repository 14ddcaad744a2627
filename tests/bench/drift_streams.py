"""Made-up prediction streams with known truth: what a model service logs, and what goes wrong with it.

    stream(kind, seed, shape)    one stream: reference rows, watched rows, when what begins and which columns it moves
    fresh(seed)                  a shape drawn at random: columns, task, link, sizes

A *world* is a service: columns of several marginals (bell, long tail, counts, many zeros, categories), hung on two
common factors; a true relation from columns to label; a model that nearly knows it. World and reference follow from
seed and shape alone, so all kinds of one seed share them. Sizes of troubles are what a person would state: moves in
standard deviations, concepts and releases by the accuracy that they cost, faults by the share of rows.
Needs numpy alone: rivals make the same streams in environments of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of trouble.

    cause   data, concept, pipeline, deploy, infra, label; None = nothing is wrong, every alarm is false
    form    step; mixture (more and more rows of the new kind); ramp (all rows a little more); "" = from the first row
    size    standard deviations, accuracy lost, or share of rows; of other kinds a factor
    """

    cause: str | None
    form: str = "step"
    size: float = 1.0


KINDS: Final = {
    "null": Kind(None, ""),
    "null_release": Kind(None),
    "null_season": Kind(None, ""),
    "null_wander": Kind(None, ""),
    "cov_abrupt": Kind("data", "step", 0.9),
    "cov_small": Kind("data", "step", 0.25),
    "cov_gradual": Kind("data", "mixture", 0.9),
    "cov_incremental": Kind("data", "ramp", 0.9),
    "cov_variance": Kind("data", "step", 1.2),
    "cov_category": Kind("data", "step", 0.35),
    "cov_joint": Kind("data", "step", 0.6),
    "cov_prior": Kind("data", "step", 0.6),
    "con_abrupt": Kind("concept", "step", 0.15),
    "con_small": Kind("concept", "step", 0.05),
    "con_gradual": Kind("concept", "mixture", 0.15),
    "con_incremental": Kind("concept", "ramp", 0.15),
    "con_segment": Kind("concept", "step", 0.05),
    "pipe_missing": Kind("pipeline", "step", 0.35),
    "pipe_units": Kind("pipeline", "step"),
    "pipe_stuck": Kind("pipeline", "step"),
    "pipe_values": Kind("pipeline", "step", 0.5),
    "pipe_swap": Kind("pipeline", "step"),
    "pipe_cast": Kind("pipeline", "step"),
    "deploy_bad": Kind("deploy", "step", 0.15),
    "infra_slow": Kind("infra", "step", 3.0),
    "infra_errors": Kind("infra", "step", 0.12),
    "label_swapped": Kind("label", "step"),
    "label_constant": Kind("label", "step"),
}
NULLS: Final = tuple(name for name, kind in KINDS.items() if kind.cause is None)
TROUBLES: Final = tuple(name for name, kind in KINDS.items() if kind.cause is not None)
SLOW: Final = ("cov_small", "cov_gradual", "cov_incremental", "con_gradual", "con_incremental")
UNLABELLED: Final = tuple(name for name in TROUBLES if KINDS[name].cause in {"data", "pipeline"})
"""What shows in the columns themselves."""

_MARGINALS: Final = ("bell", "long", "flat", "heavy", "count", "zeros")
_CODES: Final = 100.0
"""Codes of values that a category never had begin here."""
_GRID: Final = 40
"""Steps of the search for how much a relation must change to cost so much accuracy."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a service is, and how much of it is hit.

    numbers, categories   columns of each sort; at least 4 and 1
    task, link   binary (logit, probit, cloglog), multiclass (softmax of 4), regression (identity)
    reference, before, after   rows: the reference, then watched ones before and after the trouble begins
    batch        rows at a time
    moved        columns that a move of the inputs takes along
    effect       factor on the size of every trouble
    period       rows of a season
    """

    numbers: int = 8
    categories: int = 2
    task: str = "binary"
    link: str = "logit"
    reference: int = 5000
    before: int = 2500
    after: int = 8000
    batch: int = 100
    moved: int = 2
    effect: float = 1.0
    period: int = 500


STANDARD: Final = Shape()


def fresh(seed: int) -> Shape:
    """Draw a shape that nothing was fitted to."""
    r = np.random.default_rng([seed, 77])
    task = str(r.choice(["binary", "binary", "multiclass", "regression"]))
    return Shape(
        numbers=int(r.integers(4, 25)),
        categories=int(r.integers(1, 7)),
        task=task,
        link=str(r.choice(["logit", "probit", "cloglog"])),
        reference=int(r.choice([2000, 5000, 12_000])),
        before=int(r.integers(15, 40)) * 100,
        after=8000,
        batch=int(r.choice([50, 100, 250])),
        moved=int(r.integers(1, 4)),
        effect=float(r.uniform(0.8, 1.5)),
        period=int(r.choice([200, 400])),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Logged rows: X (n, d), NaN = missing, categories as codes; the others (n,).

    proba   of class 1 (binary), of the predicted class (multiclass), NaN (regression, or not served)
    """

    X: Array
    y: Array
    pred: Array
    proba: Array
    version: Array
    latency_ms: Array
    served: Array

    def __len__(self) -> int:
        return len(self.y)

    def part(self, at: Any) -> Rows:
        """Return some of the rows."""
        return Rows(*(getattr(self, name)[at] for name in self.__slots__))


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """One stream: `start` = the first watched row that is hit, None = never; `moved` = columns that change."""

    name: str
    task: str
    features: tuple[str, ...]
    cause: str | None
    start: int | None
    moved: frozenset[str]
    reference: Rows
    watched: Rows
    batch: int


def stream(kind: str, seed: int, shape: Shape = STANDARD, rows: int = 0) -> Stream:
    """Make one stream; `rows` > 0 asks for so many watched rows in place of before + after."""
    world = World(seed, shape)
    watched = rows or shape.before + shape.after
    start = None if KINDS[kind].cause is None else shape.before
    first, _ = world.make(kind, np.random.default_rng([seed, 2]), -shape.reference, 0, plain=True)
    salt = np.random.default_rng([seed, 3, *kind.encode()])
    then, moved = world.make(kind, salt, 0, watched, plain=False)
    return Stream(
        kind, shape.task, world.features, KINDS[kind].cause, start, moved, first, then, shape.batch
    )


class World:
    """A service of one shape; see the module."""

    def __init__(self, seed: int, shape: Shape) -> None:
        r = np.random.default_rng([seed, 1])
        d, k = shape.numbers, shape.categories
        self.shape = shape
        self.features = (*(f"x{i}" for i in range(d)), *(f"c_{i}" for i in range(k)))
        self.marginal = r.choice(len(_MARGINALS), d)
        self.place = r.normal(0.0, 10.0, d)
        self.width = np.exp(r.normal(0.0, 1.0, d))
        self.levels = [r.dirichlet(np.full(int(r.integers(3, 7)), 4.0)) for _ in range(k)]
        # a segment of a fifth of the rows, and values frequent enough to trade places
        self.levels[0] = np.array([0.4, 0.25, 0.2, 0.15])
        outputs = 4 if shape.task == "multiclass" else 1
        importance = 1.5 * 0.75 ** np.arange(d)
        importance[d - d // 4 :] = 0.0
        self.weights = importance[:, None] * r.choice([-1.0, 1.0], (d, outputs))
        self.weights *= r.uniform(0.8, 1.2, (d, outputs))
        self.effects = [r.normal(0.0, 0.5, (len(p), outputs)) for p in self.levels]
        # two columns go together and with nobody else
        self.pair = (2, 3)
        self.loading = r.uniform(-0.6, 0.6, (d, 2))
        self.loading[list(self.pair)] = 0.0
        order = [i for i in range(d) if i not in self.pair]
        self.important = tuple(order)
        self._learn_sight(r)
        noise = 1.0 + 0.08 * r.normal(size=self.weights.shape)
        self.model = self.weights * noise
        self.signs = r.choice([-1.0, 1.0], d)
        self._limit = 2.5

    # ---- columns

    def _latent(self, r: np.random.Generator, n: int, rho: Array | float) -> Array:
        """Bells (n, d) of unit spread on two common factors."""
        own = r.normal(size=(n, self.shape.numbers))
        common = r.normal(size=(n, 2)) @ self.loading.T
        z: Array = common + own * np.sqrt(1.0 - (self.loading**2).sum(axis=1))
        a, b = self.pair
        z[:, b] = rho * z[:, a] + np.sqrt(1.0 - np.square(rho)) * z[:, b]
        return z

    def _numbers(self, z: Array) -> Array:
        """Give bells the marginals of the columns."""
        x = np.empty_like(z)
        for i, which in enumerate(self.marginal):
            at, s, v = self.place[i], self.width[i], z[:, i]
            x[:, i] = (
                at + s * v, s * np.exp(0.7 * v), at + s * 3.5 / (1.0 + np.exp(-1.7 * v)),
                at + s * np.sinh(1.2 * v) / 1.5, np.floor(np.exp(1.8 + 0.6 * v)), s * np.maximum(0.0, v + 0.4),
            )[which]  # fmt: skip
        return x

    def _learn_sight(self, r: np.random.Generator) -> None:
        """Learn how truth and model see the numbers: straightened, about standard, never beyond 6."""
        self._middle, self._spread = np.zeros(self.shape.numbers), np.ones(self.shape.numbers)
        seen = self._straight(self._numbers(self._latent(r, 4000, 0.6)))
        self._middle, self._spread = seen.mean(axis=0), seen.std(axis=0)

    def _straight(self, x: Array) -> Array:
        v = x.copy()
        for i, which in enumerate(self.marginal):
            if which == 1:
                v[:, i] = np.log(np.maximum(np.abs(x[:, i]) / self.width[i], 1e-6))
            elif which == 3:
                v[:, i] = np.arcsinh(1.5 * (x[:, i] - self.place[i]) / self.width[i])
        return v

    def _score(self, weights: Array, x: Array, codes: Array) -> Array:
        """Outputs (n, outputs) of a linear relation over what is seen; missing and unknown count nothing."""
        seen = (self._straight(x) - self._middle) / self._spread
        out: Array = np.nan_to_num(np.clip(seen, -6.0, 6.0)) @ weights
        for j, effect in enumerate(self.effects):
            code = np.nan_to_num(codes[:, j], nan=-1.0).astype(int)
            known = (code >= 0) & (code < len(effect))
            out += np.where(known[:, None], effect[np.where(known, code, 0)], 0.0)
        return out

    # ---- labels and answers

    def _probability(self, score: Array) -> Array:
        s = np.clip(score, -30.0, 30.0)
        if self.shape.task == "multiclass":
            e = np.exp(s - s.max(axis=1, keepdims=True))
            shares: Array = e / e.sum(axis=1, keepdims=True)
            return shares
        if self.shape.link == "cloglog":
            one: Array = 1.0 - np.exp(-np.exp(np.minimum(s, 5.0)))
            return one
        if self.shape.link == "probit":
            s = np.clip(1.6 * s + 0.07 * s**3, -30.0, 30.0)  # the bell's integral, nearly
        return np.asarray(1.0 / (1.0 + np.exp(-s)))

    def _label(self, score: Array, luck: Array) -> Array:
        """Labels (n,) of true scores; luck (n, 2), uniform."""
        if self.shape.task == "regression":
            bell = np.sqrt(-2.0 * np.log1p(-luck[:, 0])) * np.cos(2 * np.pi * luck[:, 1])
            value: Array = score[:, 0] + bell
            return value
        p = self._probability(score)
        if self.shape.task == "multiclass":
            label: Array = (luck[:, :1] > np.cumsum(p, axis=1)[:, :-1]).sum(axis=1)
            return label
        binary: Array = (luck[:, 0] < p[:, 0]).astype(np.int64)
        return binary

    def _answer(self, score: Array) -> tuple[Array, Array]:
        """Return what a model with these outputs says (n,), and its confidence (n,)."""
        if self.shape.task == "regression":
            return score[:, 0], np.full(len(score), np.nan)
        p = self._probability(score)
        if self.shape.task == "multiclass":
            return p.argmax(axis=1), p.max(axis=1)
        return (p[:, 0] >= 0.5).astype(np.int64), p[:, 0]

    def wrong(self, y: Array, pred: Array) -> Array:
        """Tell which answers are wrong (n,); numbers: off by more than 2.5 deviations of the noise."""
        off: Array = (
            np.abs(y - pred) > self._limit if self.shape.task == "regression" else y != pred
        )
        return off

    def _amount_of_harm(self, weights: Array, by: str, lost: float) -> float:
        """Find how far a relation must go towards `weights` to lose so much accuracy; 1 = it can not lose that."""
        r = np.random.default_rng(5)
        x = self._numbers(self._latent(r, 4000, 0.6))
        codes = self._categories(r, 4000)
        luck = r.random((4000, 2))
        true, model = self._score(self.weights, x, codes), self._score(self.model, x, codes)
        other = self._score(weights, x, codes)
        usual = self.wrong(self._label(true, luck), self._answer(model)[0]).mean()
        for step in range(1, _GRID + 1):
            share = step / _GRID
            t = true + share * (other - true) if by == "truth" else true
            m = model + share * (other - model) if by == "model" else model
            if self.wrong(self._label(t, luck), self._answer(m)[0]).mean() - usual >= lost:
                return share
        return 1.0

    def _turned(self) -> Array:
        """Weights of a relation that has turned round in what matters most."""
        other = self.weights.copy()
        other[list(self.important[:2])] *= -1.0
        return other

    def _categories(self, r: np.random.Generator, n: int) -> Array:
        return np.column_stack([r.choice(len(p), n, p=p) for p in self.levels]).astype(float)

    # ---- rows

    def make(
        self, kind: str, r: np.random.Generator, first: int, last: int, *, plain: bool
    ) -> tuple[Rows, frozenset[str]]:
        """Make rows first..last - 1, counted from the first watched one; `plain` = before any trouble."""
        if plain and KINDS[kind].cause is not None:
            kind = "null"
        n, shape, what = last - first, self.shape, KINDS[kind]
        t = np.arange(first, last) - shape.before
        hit = _Hit(kind, what.size * shape.effect, _amount(what.form, t, shape.after, r))
        z = self._latent(r, n, np.where(hit.on, -what.size, 0.6) if kind == "cov_joint" else 0.6)
        codes, luck = self._categories(r, n), r.random((n, 2))
        moved = self._move(hit, r, z, codes, luck, np.arange(first, last))
        x = self._numbers(z)
        y = self._label(self._truth(hit, x, codes), luck)
        if kind == "label_swapped":
            y = np.where(hit.on, self._swapped(y), y)
        elif kind == "label_constant":
            y = np.where(hit.on, 0, y)
        moved = [*moved, *self._break(hit, r, x, codes)]
        pred, proba = self._answer(self._outputs(hit, x, codes))
        version = np.full(n, "v1")
        if kind in {"deploy_bad", "null_release"}:
            version[t >= 0] = "v2"
        latency, served = r.gamma(4.0, 5.0, n), np.ones(n, dtype=bool)
        if kind == "infra_slow":
            latency *= 1.0 + hit.size * hit.amount
        elif kind == "infra_errors":
            served = ~(hit.on & (r.random(n) < hit.size))
            latency = np.where(served, latency, 2000.0)
        proba = np.where(served, proba, np.nan)
        rows = Rows(np.column_stack([x, codes]), y, pred, proba, version, latency, served)
        return rows, frozenset(self.features[i] for i in moved)

    def _move(
        self, hit: _Hit, r: np.random.Generator, z: Array, codes: Array, luck: Array, row: Array
    ) -> list[int]:
        """Move the inputs themselves; return which columns."""
        shape, kind, size = self.shape, hit.kind, hit.size
        some = [self.important[i] for i in range(min(shape.moved, len(self.important)))]
        if kind in {"cov_abrupt", "cov_gradual", "cov_incremental"}:
            z[:, some] += hit.amount[:, None] * size * self.signs[some]
            return some
        if kind == "cov_small":
            z[:, some[0]] += hit.amount * size
            return some[:1]
        if kind == "cov_variance":
            z[:, some[0]] *= 1.0 + hit.amount * size
            return some[:1]
        if kind == "cov_joint":
            return list(self.pair)
        if kind == "cov_category":
            # a share of the rows of the most frequent value now have the rarest one
            turned = hit.on & (codes[:, 0] == 0) & (r.random(len(z)) < 2.0 * size)
            codes[turned, 0] = len(self.levels[0]) - 1
            return [shape.numbers]
        if kind == "cov_prior":
            self._prefer(r, z, codes, luck, hit.on & (r.random(len(z)) < size))
            return [i for i in range(shape.numbers) if self.weights[i].any()]
        if kind == "null_season":
            day = np.sin(2 * np.pi * row / shape.period)
            z[:, some] += 0.8 * day[:, None]
            codes[(day > 0.5) & (r.random(len(z)) < 0.5), 0] = 1
        elif kind == "null_wander":
            z[:, some] = _wander(r, len(z), 0.97)[:, None] * 0.8 + 0.6 * z[:, some]
        return []

    def _truth(self, hit: _Hit, x: Array, codes: Array) -> Array:
        """True outputs; a concept has turned round, everywhere or in a segment."""
        true = self._score(self.weights, x, codes)
        if hit.kind == "con_segment":
            turned = hit.on & (codes[:, 0] == 2)
            return np.where(turned[:, None], self._score(-self.weights, x, codes), true)
        if KINDS[hit.kind].cause == "concept":
            other = self._turned()
            share = self._amount_of_harm(other, "truth", hit.size)
            true += (share * hit.amount)[:, None] * (self._score(other, x, codes) - true)
        return true

    def _outputs(self, hit: _Hit, x: Array, codes: Array) -> Array:
        """Outputs of the model, from what was logged; a bad release has turned round."""
        outputs = self._score(self.model, x, codes)
        if hit.kind == "deploy_bad":
            other = self._turned()
            share = self._amount_of_harm(other, "model", hit.size)
            outputs += (share * hit.amount)[:, None] * (self._score(other, x, codes) - outputs)
        return outputs

    def _prefer(
        self, r: np.random.Generator, z: Array, codes: Array, luck: Array, which: Array
    ) -> None:
        """Draw rows again until they are of the class (the half) that is preferred: only the mix of labels moves."""
        left = np.flatnonzero(which)
        for _ in range(4):
            n = len(left)
            z[left], codes[left], luck[left] = (
                self._latent(r, n, 0.6),
                self._categories(r, n),
                r.random((n, 2)),
            )
            y = self._label(
                self._score(self.weights, self._numbers(z[left]), codes[left]), luck[left]
            )
            left = left[y <= 0]

    def _swapped(self, y: Array) -> Array:
        if self.shape.task == "regression":
            return -y
        return (y + 1) % (4 if self.shape.task == "multiclass" else 2)

    def _break(self, hit: _Hit, r: np.random.Generator, x: Array, codes: Array) -> list[int]:
        """Do to the logged columns what a broken pipeline does; return which."""
        a, b = self.important[:2]
        on, kind = hit.on, hit.kind
        if kind == "pipe_missing":
            x[on & (r.random(len(x)) < hit.size), a] = np.nan
            return [a]
        if kind == "pipe_units":
            x[on, b] *= r.choice([0.01, 100.0, 1000.0])
            return [b]
        if kind == "pipe_stuck":
            x[on, a] = x[np.flatnonzero(~on)[-1], a]
            return [a]
        if kind == "pipe_values":
            codes[on & (r.random(len(x)) < hit.size), -1] += _CODES
            return [self.shape.numbers + self.shape.categories - 1]
        if kind == "pipe_swap":
            x[np.ix_(on, [a, b])] = x[np.ix_(on, [b, a])]
            return [a, b]
        if kind == "pipe_cast":
            # whole multiples of its own spread, as when a decimal is cast to a whole number on its way
            unit = float(np.std(x[~on, a]))
            x[on, a] = np.trunc(x[on, a] / unit) * unit
            return [a]
        return []


@dataclass(frozen=True, slots=True, eq=False)
class _Hit:
    """How rows are hit: by what, how hard, and how far it has come at each (n,), 0..1."""

    kind: str
    size: float
    amount: Array

    @property
    def on(self) -> Array:
        """(n,) the rows that are hit at all."""
        on: Array = self.amount > 0
        return on


def _amount(form: str, t: Array, after: int, r: np.random.Generator) -> Array:
    """How far the trouble has come at rows t (n,), counted from where it begins: 0..1."""
    if form == "mixture":
        return (r.random(len(t)) < np.clip(2.0 * t / after, 0.0, 1.0)).astype(float)
    if not form:
        return np.zeros(len(t))
    if form == "ramp":
        ramp: Array = np.clip(4.0 * t / (3.0 * after), 0.0, 1.0)
        return ramp
    return (t >= 0).astype(float)


def _wander(r: np.random.Generator, n: int, keeps: float) -> Array:
    """A path of unit spread that keeps so much of itself from row to row."""
    noise = r.normal(size=n) * np.sqrt(1.0 - keeps**2)
    out = np.empty(n)
    at = float(r.normal())
    for i, step in enumerate(noise.tolist()):
        at = keeps * at + step
        out[i] = at
    return out


def frame(columns: int, rows: int, seed: int) -> Rows:
    """Plain rows to time things on: a fifth of the columns are categories of eight values."""
    r = np.random.default_rng([seed, 9])
    k = columns // 5
    x = np.column_stack([r.normal(size=(rows, columns - k)), r.integers(0, 8, (rows, k))])
    proba = r.random(rows)
    y = (r.random(rows) < proba).astype(np.int64)
    pred = (proba >= 0.5).astype(np.int64)
    return Rows(
        x, y, pred, proba, np.full(rows, "v1"), r.gamma(4.0, 5.0, rows), np.ones(rows, dtype=bool)
    )


def names_of(columns: int) -> tuple[str, ...]:
    """The columns of `frame`."""
    k = columns // 5
    return (*(f"x{i}" for i in range(columns - k)), *(f"c_{i}" for i in range(k)))
