"""What the joint detectors share: columns and scales of a model, tails over its residuals, state, explanation.

    x (n,) -> u (m,): the columns that the model knows, scaled robustly, squashed by log1p so that bursts do not rule
      -> the model's `look`: what it expected, how far off each column is, how odd the row is as a whole
      -> statistics of n series and of the row, in units of what was held back in training -> tails -> p

A statistic is its size divided by the 98 % quantile that it had on rows held back in training, times what the tail
takes for that quantile: so a tail begins calibrated, and goes on as it is when a newer model comes. The p of a series
is the rarer of its own and, for the `CARRIERS` columns that carry most of it, that of the row; paid for by a factor of
two where there are both. Never below 1 / (30 rows learnt), NaN before the first model, for series that it does not
know, and in the first rows. What is not trusted is not learnt; late and repeated rows neither.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from agent import checkpoint
from agent.errors import Refused
from agent.model import BoolArray, FloatArray, IntArray
from agent.ports import Past, Why
from agent.units import Duration, Model
from detectors._tail import Tail

CARRIERS: Final = 3
_CARRIES: Final = 0.3
"""Who carries less than this share of what the first does is a bystander."""
_WARMUP_ROWS: Final = 30
_READY_ROWS: Final = 600
_LATE_STEPS: Final = 100.0
_LARGEST: Final = 1e150
_FARTHEST: Final = 1e6
_HELD_BACK: Final = 64
"""Every fourth stretch of so many rows is held back from the fit."""
_LEAST_ROWS: Final = 200
"""Fewer would leave next to nothing held back."""
_LEAST_SHARE: Final = 0.8
"""Columns that are known in fewer rows are left out."""
# Quantile and mean excess of a statistic before anything is learnt; the model scales it so that this holds.
_PRIOR: Final = np.array([[4.0, 1.5]])

Arrays = dict[str, npt.NDArray[Any]]


class Settings(Model):
    """What every joint detector is told."""

    step_s: Annotated[Duration, Field(gt=0)] = 1.0
    """Usual time between two rows; that of the source."""
    span: Annotated[Duration, Field(gt=0)] = 86_400.0
    """How much past a model is made from."""
    rows: Annotated[int, Field(ge=256)] = 8192
    """How many rows of it, at most; spread over the span."""
    most_series: Annotated[int, Field(ge=2)] = 512
    """How many series a model may have; those that move most often."""


def need(module: str, extra: str) -> Any:
    """Import a heavy library where it is used, in the worker; raises Refused and says which extra brings it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        library = module.partition(".")[0]
        raise Refused(
            f"{library} is not installed: pip install 'homeostat[{extra}]', then wait or start again"
        ) from None


def squash(z: FloatArray) -> FloatArray:
    """Return sign(z) log(1 + |z|): a burst of a thousand deviations is seven, an ordinary one stays as it is."""
    out: FloatArray = np.sign(z) * np.log1p(np.abs(z))
    return out


def unsquash(u: float) -> float:
    """Undo `squash`."""
    return float(np.sign(u) * np.expm1(min(abs(u), 300.0)))


# ---------------------------------------------------------------- in the worker


@dataclass(frozen=True, slots=True)
class Prepared:
    """Rows made ready for a fit.

    use     (m,) columns that are worth it; centre, scale, spread (m,) how u comes from x
    u       (k, m); what was not known is 0, the centre
    fit     (k,) rows to fit on; the others are held back, to see how large errors are
    """

    use: IntArray
    centre: FloatArray
    scale: FloatArray
    spread: FloatArray
    u: FloatArray
    fit: BoolArray

    def arrays(self) -> Arrays:
        """Return what the model needs to make u."""
        return {"use": self.use, "centre": self.centre, "scale": self.scale, "spread": self.spread}


def prepare(values: FloatArray, most_series: int, least_rows: int = _LEAST_ROWS) -> Prepared:
    """Choose and scale columns of values (k, n); raises Refused when rows are too few or nothing moves."""
    if len(values) < least_rows:
        raise Refused(f"history has {len(values)} rows, {least_rows} are needed")
    known = np.isfinite(values) & (np.abs(values) < _LARGEST)
    x = np.where(known, values, np.nan)
    enough = known.mean(axis=0) >= _LEAST_SHARE
    use = np.flatnonzero(enough)
    x = x[:, use]
    moves = np.zeros(len(use))
    centre = scale = np.zeros(0)
    if len(use):
        centre = np.nanmedian(x, axis=0)
        away = np.abs(x - centre)
        moves = np.mean(np.nan_to_num(away) > 1e-9 * np.abs(centre) + 1e-300, axis=0)
        mad = 1.4826 * np.nanmedian(away, axis=0)
        # rests in most rows: the median of its moves is 0, their mean is not
        scale = np.where(mad > 0, mad, 1.2533 * np.nanmean(away, axis=0))
    lively = np.argsort(-moves, kind="stable")[:most_series]
    lively = np.sort(lively[(moves[lively] > 0) & (scale[lively] > 0)])
    if not len(lively):
        raise Refused(f"none of {values.shape[1]} series move")
    use, centre, scale = use[lively], centre[lively], scale[lively]
    u = squash(np.nan_to_num((x[:, lively] - centre) / scale))
    spread = np.maximum(u.std(axis=0), 1e-3)
    u /= spread
    fit = (np.arange(len(values)) // _HELD_BACK) % 4 != 3
    return Prepared(use, centre, scale, spread, u, fit)


def sizes(
    residuals: FloatArray, odd: FloatArray | None, rows: BoolArray | None = None
) -> dict[str, FloatArray]:
    """Return how large residuals (k, m) and row statistics (k,) were on held-back rows: what the model carries."""
    if rows is not None:
        residuals = residuals[rows]
        odd = None if odd is None else odd[rows]
    large = np.quantile(np.abs(residuals), 0.98, axis=0) if residuals.size else np.zeros(0)
    base = 0.0 if odd is None or not len(odd) else float(np.median(odd))
    top = (
        0.0 if odd is None or not len(odd) else float(np.quantile(np.maximum(odd - base, 0), 0.98))
    )
    return {"large": np.maximum(large, 1e-3), "odd": np.array([base, max(top, 1e-6)])}


# ---------------------------------------------------------------- in the daemon


@dataclass(slots=True)
class Look:
    """What a model says of one row of u (m,).

    expected   (m,) in units of u; residual (m,) what is off, NaN = this model does not say it column by column
    odd        how odd the row is as a whole; NaN = this model does not say
    weight     (m,) how much each column carries of `odd`
    fresh      False: nothing new has been measured since the last row
    """

    expected: FloatArray
    residual: FloatArray
    odd: float
    weight: FloatArray
    fresh: bool = True


@dataclass(slots=True)
class _Row:
    """What one row says, kept between score and learn. stats (n + 1,): the series, then the row as a whole."""

    ts: float
    x: FloatArray
    u: FloatArray
    known: BoolArray
    look: Look
    stats: FloatArray
    judged: BoolArray
    carriers: IntArray
    p: FloatArray


@dataclass(slots=True)
class _Scales:
    """How a model's columns come from series. at (m,) position of each now, -1 = gone."""

    use: IntArray
    centre: FloatArray
    scale: FloatArray
    spread: FloatArray
    large: FloatArray
    odd: FloatArray
    at: IntArray = field(default_factory=lambda: np.empty(0, np.int64))


class Joint:
    """Base of the joint detectors: they say `_look` (and perhaps `_follow`), the rest is here."""

    kind: ClassVar[str]
    family: ClassVar[str] = "joint"
    version: ClassVar[int] = 1
    by_row: ClassVar[bool] = True
    """Whether it judges the row as a whole."""
    by_series: ClassVar[bool] = True
    """Whether it judges each series."""

    def __init__(self, config: Any, n: int) -> None:
        self.config = config
        self._model = b""
        self._scales: _Scales | None = None
        self._last_ts = -np.inf
        self._row: _Row | None = None
        self._fresh(n)

    def _fresh(self, n: int) -> None:
        self.rows: FloatArray = np.zeros(n + 1)
        self.gain: FloatArray = np.full(n + 1, _PRIOR[0, 0])
        self.tail = Tail(_PRIOR, n + 1)

    # ---- what a joint detector says

    def _open(self, arrays: Arrays) -> None:
        """Take the arrays of a model; KeyError or ValueError when they do not fit."""
        raise NotImplementedError

    def _look(self, ts: float, u: FloatArray, known: BoolArray) -> Look:
        """Judge a row; changes nothing."""
        raise NotImplementedError

    def _follow(
        self, ts: float, u: FloatArray, known: BoolArray, trust: BoolArray, look: Look
    ) -> None:
        """Move on to the next row; trust (m,)."""

    def _moving(self) -> Arrays:
        """Return the arrays that `_follow` changes, by name."""
        return {}

    def past(self) -> Past:
        """Say what `train` wants to see."""
        c = self.config
        return Past(c.span, c.step_s, c.rows, 128, min(512, int(0.8 * c.rows)))

    # ---- score

    def score(self, ts: float, x: FloatArray) -> FloatArray:
        """Return p (n,), see the top of the file."""
        if len(x) != len(self.rows) - 1:
            raise ValueError(f"a row of {len(x)} values for {len(self.rows) - 1} series")
        if self._scales is None:
            return np.full(len(x), np.nan)
        self._row = self._measure(ts, x, self._scales)
        return self._row.p.copy()

    def _measure(self, ts: float, x: FloatArray, s: _Scales) -> _Row:
        n = len(x)
        if not n:
            none = Look(s.centre * 0, s.centre * 0, np.nan, s.centre * 0)
            empty = np.empty(0)
            return _Row(ts, x, empty, np.empty(0, bool), none, np.zeros(1), np.zeros(1, bool),
                        np.empty(0, np.int64), empty)  # fmt: skip
        there = x[s.at]
        known = (s.at >= 0) & (np.abs(there) < _LARGEST)
        u = squash((np.where(known, there, s.centre) - s.centre) / s.scale) / s.spread
        look = self._look(ts, u, known)
        stats, judged = np.zeros(n + 1), np.zeros(n + 1, bool)
        mine = known & np.isfinite(look.residual)
        at = s.at[mine]
        stats[at] = np.abs(look.residual[mine]) / s.large[mine]
        judged[at] = True
        if np.isfinite(look.odd):
            stats[n] = max(look.odd - s.odd[0], 0.0) / s.odd[1]
            judged[n] = True
        stats *= self.gain
        np.minimum(stats, _FARTHEST, out=stats)
        rarity = self.tail.rarity(stats[None])[0]
        carriers = self._carriers(look, known, s)
        judges = 2.0 if self.by_row and self.by_series else 1.0
        rarest = np.where(judged[:n], rarity[:n], 0.0)
        if judged[n] and self.rows[n] >= _WARMUP_ROWS:
            rarest[carriers] = np.maximum(rarest[carriers], rarity[n])
        learnt = self.rows[:n] if self.by_series else np.full(n, self.rows[n])
        floor = 1.0 / (30.0 * np.maximum(learnt, 1.0))
        p = np.clip(judges * np.exp(-rarest), np.minimum(floor, 1.0), 1.0)
        ready = np.zeros(n, bool)
        ready[s.at[known if not self.by_series else mine]] = True
        p[~ready | (learnt < _WARMUP_ROWS)] = np.nan
        return _Row(ts, x.copy(), u, known, look, stats, judged, carriers, p)

    @staticmethod
    def _carriers(look: Look, known: BoolArray, s: _Scales) -> IntArray:
        """Return the positions of the series that carry most of the row, the most first."""
        weight = np.where(known, look.weight, 0.0)
        top = np.argsort(-weight, kind="stable")[:CARRIERS]
        carriers: IntArray = s.at[top[weight[top] > _CARRIES * weight.max(initial=0.0)]]
        return carriers

    # ---- learn

    def learn(self, ts: float, x: FloatArray, trust: BoolArray) -> None:
        """Learn the row. Late and repeated rows are left out; a clock set far back is followed."""
        s = self._scales
        late = self._last_ts - ts
        if s is None or 0 <= late < _LATE_STEPS * self.config.step_s:
            return
        row = self._row
        if row is None or row.ts != ts or not np.array_equal(row.x, x, equal_nan=True):
            row = self._measure(ts, x, s)
        self._row = row if row is self._row else None
        if len(x):
            teach = row.judged.copy()
            teach[:-1] &= trust
            teach[-1] &= bool(trust[row.carriers].all())
            if row.look.fresh:
                self.tail.learn(row.stats[None], teach, self.rows)
                self.rows = self.rows + teach
            there = np.zeros(len(s.at), bool)
            there[s.at >= 0] = trust[s.at[s.at >= 0]]
            self._follow(ts, row.u, row.known, there & row.known, row.look)
        self._last_ts = ts

    # ---- a new model; series come and go

    def take(self, model: bytes, column: IntArray) -> None:
        """Score by this model from now on: series i was column[i] of its rows, -1 = none. Tails go on."""
        if len(column) != len(self.rows) - 1:
            raise ValueError(f"columns of {len(column)} series for {len(self.rows) - 1}")
        scales = self._opened(model)
        scales.at = np.full(len(scales.use), -1, dtype=np.int64)
        place = {int(c): i for i, c in enumerate(column) if c >= 0}
        for j, c in enumerate(scales.use.tolist()):
            scales.at[j] = place.get(c, -1)
        self._model, self._scales, self._row = model, scales, None
        self.gain = self.tail.quantile[0].copy()

    def _opened(self, model: bytes) -> _Scales:
        meta, arrays = checkpoint.read(f"{self.kind} model", self.version, model)
        try:
            if meta["step_s"] != self.config.step_s:
                raise Refused(
                    f"the model was made at a step of {meta['step_s']:g} s, not {self.config.step_s:g} s"
                )
            centre, scale, spread, large, odd = (
                arrays[name].astype(np.float64)
                for name in ("centre", "scale", "spread", "large", "odd")
            )
            use = arrays["use"].astype(np.int64)
            scales = _Scales(use, centre, scale, spread, large, odd)
            self._open(arrays)
        except (KeyError, TypeError, ValueError) as damage:
            raise Refused(f"model of {self.kind} is damaged ({damage}): it is made anew") from None
        return scales

    def remap(self, old_index: IntArray) -> None:
        """New position i was old_index[i]; -1 = new: without a p-value until the next model knows it."""
        old = np.asarray(old_index, dtype=np.int64)
        n = len(self.rows) - 1
        if len(old) and (old.max() >= n or old.min() < -1):
            raise ValueError(f"remap asks for column {int(old.max())} of {n} series")
        kept, rows, gain, ticks = self.tail.arrays(), self.rows, self.gain, self.tail.ticks
        self._fresh(len(old))
        self.tail.ticks = ticks
        stay = np.append(old >= 0, True)
        was = np.append(old, n)[stay]
        for name, array in self.tail.arrays().items():
            array[..., stay] = kept[name][..., was]
        self.rows[stay], self.gain[stay] = rows[was], gain[was]
        if self._scales is not None:
            now = np.full(n + 1, -1, dtype=np.int64)
            now[old[old >= 0]] = np.flatnonzero(old >= 0)
            self._scales.at = now[self._scales.at]  # -1 reads the last one, which stays -1
        self._row = None

    # ---- dump, load

    def dump(self) -> bytes:
        """Return model and state with version and checksum; the last score is not part of it."""
        last_ts = self._last_ts if np.isfinite(self._last_ts) else None
        meta = {"n": len(self.rows) - 1, "last_ts": last_ts, "ticks": self.tail.ticks}
        arrays: Arrays = {"rows": self.rows, "gain": self.gain}
        arrays.update({f"tail.{name}": array for name, array in self.tail.arrays().items()})
        if self._scales is not None:
            arrays["model"] = np.frombuffer(self._model, np.uint8)
            arrays["at"] = self._scales.at
            arrays.update({f"moving.{name}": array for name, array in self._moving().items()})
        return checkpoint.write(self.kind, self.version, meta, arrays)

    def load(self, state: bytes) -> None:
        """Take a state; n becomes that of the state. Raises Refused when it does not fit this detector."""
        meta, arrays = checkpoint.read(self.kind, self.version, state)
        try:
            kept = type(self)(self.config, int(meta["n"]))
            kept.fill(meta, arrays)
        except (KeyError, TypeError, ValueError) as damage:
            raise Refused(
                f"state of {self.kind} is damaged ({damage}): it is learnt anew"
            ) from None
        self.__dict__.update(kept.__dict__)

    def fill(self, meta: Any, arrays: Arrays) -> None:
        """Take the parts of a state; a fresh detector of as many series, as half of it may be taken when it fails."""
        if "model" in arrays:
            self._model = arrays["model"].tobytes()
            self._scales = self._opened(self._model)
            self._scales.at = arrays["at"].astype(np.int64)
            for name, array in self._moving().items():
                array[...] = arrays[f"moving.{name}"]
        wanted = {f"tail.{name}": array for name, array in self.tail.arrays().items()}
        for name, array in {**wanted, "rows": self.rows, "gain": self.gain}.items():
            array[...] = arrays[name]
        self.tail.ticks = int(meta["ticks"])
        self._last_ts = -np.inf if meta["last_ts"] is None else float(meta["last_ts"])

    # ---- explain

    def explain(self, i: int) -> Why:
        """Say why series i got its last p: what was expected of it, and which series are abnormal with it."""
        row, s = self._row, self._scales
        rows = int(self.rows[i] if self.by_series else self.rows[-1])
        found = np.flatnonzero(s.at == i) if s is not None else np.empty(0, np.int64)
        nan = float("nan")
        if row is None or s is None or not len(found):
            return Why("none", nan, nan, 0.0, rows, calibrated=False)
        j = int(found[0])
        usual = self.tail.quantile[0, i] / self.gain[i] if self.by_series else 1.0
        reach = float(s.large[j] * usual)
        middle = float(row.look.expected[j])
        low, expected, high = (
            float(s.centre[j] + s.scale[j] * unsquash(s.spread[j] * (middle + side * reach)))
            for side in (-1.0, 0.0, 1.0)
        )
        deviations = min(abs(float(row.x[i]) - expected) / float(s.scale[j]), _FARTHEST)
        carriers = tuple(row.carriers.tolist())
        return Why(self.family, low, high, deviations, rows, rows >= _READY_ROWS, carriers)
