"""Made-up series for verdicts: where nothing was wrong, where a fault was cured, where nothing helped, where it harmed.

Each story is told as the daemon sees it: a trigger on an excursion, an act some rows later, rows that are not looked at
(`wait`), then looks while more rows come in; a look that says `helped` ends it, as three of `harmed` in a row do.
"""

from dataclasses import dataclass, field

import numpy as np

from agent.verify import Symptom, judge

LOOKS = (3, 4, 5, 6, 8, 10, 12, 15, 18, 22, 26, 30, 35, 40)
"""Rows after `wait` at which a verdict is asked for: 20 times in the window, at most."""
UNSEEN = 6
"""Rows between the act and the first one that counts."""


@dataclass(frozen=True)
class Noise:
    """How a series moves: AR(1) of variance 1, and what real ones have on top.

    phi      autocorrelation; tail: degrees of freedom of a Student t, 0 = normal
    seen     standard deviation of measurement noise; steps: mean rows between level shifts of 3 deviations
    trend    deviations a hundred rows; season: amplitude of a wave of 1,440 rows (a day of minutes)
    missing  share of rows that are lost; grain: values are multiples of it
    """

    phi: float = 0.8
    tail: int = 0
    seen: float = 0.0
    steps: float = 0.0
    trend: float = 0.0
    season: float = 0.0
    missing: float = 0.0
    grain: float = 0.0

    def path(self, rng, n):
        e = rng.standard_t(self.tail, n) if self.tail else rng.standard_normal(n)
        e = e / np.sqrt(self.tail / (self.tail - 2)) if self.tail else e
        x = np.empty(n)
        last = rng.standard_normal()
        gain = np.sqrt(1 - self.phi**2)
        for i, one in enumerate(e):
            x[i] = last = self.phi * last + gain * one
        t = np.arange(n)
        x += self.trend * t / 100 + self.season * np.sin(
            2 * np.pi * (t / 1440 + (rng.random() if self.season else 0))
        )
        if self.steps:
            flips = np.cumsum(rng.random(n) < 1 / self.steps) % 2
            x += 3.0 * flips
        return x

    def see(self, rng, x):
        y = x + self.seen * rng.standard_normal(len(x)) if self.seen else x.copy()
        if self.grain:
            y = np.round(y / self.grain) * self.grain
        if self.missing:
            y[rng.random(len(y)) < self.missing] = np.nan
        return y


@dataclass(frozen=True)
class Case:
    """One series with an act in it; peers: further ones, row by row the same moments."""

    usual: slice
    act: int
    onset: int
    own: np.ndarray
    peers: tuple = field(default=())
    past: tuple = ()
    calm: float = 2.0
    step: float = 1.0


COMMON = 0.8
"""Share of the variance that equals have in common: load, traffic, weather."""


def triggered(noise, rng, *, level=3.0, hold=2, delay=None, usual=300, window=40, peers=0):
    """Wait for an excursion that nobody made: `hold` rows in a row above `level`; act up to 14 rows later.

    peers: as many move with it, so that they have the same symptom
    """
    delay = int(rng.integers(0, 15)) if delay is None else delay
    n = 20_000
    while True:
        x = noise.path(rng, n)
        others = []
        if peers:
            x *= np.sqrt(COMMON)
            others = [
                noise.see(rng, x + np.sqrt(1 - COMMON) * noise.path(rng, n)) for _ in range(peers)
            ]
            x = x + np.sqrt(1 - COMMON) * noise.path(rng, n)
        y = noise.see(rng, x)
        middle = np.nanmedian(y[:2000])
        spread = 1.4826 * np.nanmedian(np.abs(y[:2000] - middle))
        high = y > middle + level * spread
        held = high.copy()
        for back in range(1, hold):
            held[back:] &= high[:-back]
        held[: usual + 60] = held[-(window + UNSEEN + 20) :] = False
        hits = np.flatnonzero(held)
        if len(hits):
            onset, act = int(hits[0]) - hold + 1, int(hits[0]) + 1 + delay
            cut = slice(max(0, onset - usual), onset)
            return Case(cut, act, onset, y, tuple(others), calm=float(middle + 2 * spread))


def faulty(noise, rng, *, stood=60, size=3.0, effect=-3.0, usual=300, window=40, peers=0, spared=0):
    """A fault of `size` deviations from the onset on; the act changes it by `effect`.

    peers: as many have the fault and are not treated; `spared` of them recover by themselves when we act
    """
    n = usual + stood + UNSEEN + window + 1
    act = usual + stood

    def one(change):
        x = noise.path(rng, n)
        x[usual:] += size
        x[act:] += change
        return noise.see(rng, x)

    own = one(effect)
    others = tuple(one(-size if i < spared else 0.0) for i in range(peers))
    return Case(slice(0, usual), act, usual, own, others)


def look(case, rows, *, scale_floor=0.05, window_rows=60):
    """Return what a verdict sees so many rows after the wait."""
    since = max(case.onset, case.act - window_rows)
    parts = (case.usual, slice(since, case.act), slice(case.act + UNSEEN, case.act + UNSEEN + rows))
    control = None
    if case.peers:
        mean = np.mean(case.peers, axis=0)
        control = tuple(mean[p] for p in parts)
    return Symptom(
        "x", case.own[parts[1]], case.own[parts[2]], "low", scale_floor, "", case.own[parts[0]],
        control, between=case.own[case.act : case.act + UNSEEN], past=case.past,
        stood=case.act - case.onset, step=case.step,
    )  # fmt: skip


def verdict(case, *, window=40, looks=LOOKS):
    """Return the verdict as the daemon comes to it: the first proof, plain harm, or the last look."""
    harms = 0
    for rows in looks:
        after = case.own[case.act + UNSEEN : case.act + UNSEEN + rows]
        last = after[np.isfinite(after)][-3:]
        held = bool(len(last) and (last < case.calm).all())
        over = rows >= min(window, looks[-1])
        outcome = judge([look(case, rows)], held if over or held else None, last=over)
        harms = harms + 1 if outcome.verdict == "harmed" else 0
        if over or outcome.verdict == "helped" or harms >= 3:
            return outcome
    raise AssertionError("the window has no end")


def cleared(case, *, window=40):
    """Tell what most tools ask: whether the condition was no longer met for three rows in a row."""
    after = case.own[case.act + UNSEEN : case.act + UNSEEN + window]
    well = np.where(np.isfinite(after), after < case.calm, False)
    return bool((well[2:] & well[1:-1] & well[:-2]).any())


def lasting(rng, *, mean, known, ends=None, step=300.0, rows=5):
    """A trouble of which only few rows are seen, five minutes apart; it ends with the act, or by its own law.

    mean    seconds that such troubles last on average, an exponential law; known: how many past ones are known
    ends    None = by itself; a number = so many seconds after the act
    """
    past = tuple(rng.exponential(mean, known))
    left = rng.exponential(mean) if ends is None else ends
    bad = rng.normal(9.0, 1.0, rows)
    gone = np.arange(1, 1 + UNSEEN + 12) * step > left
    later = np.where(gone, rng.normal(0.0, 1.0, len(gone)), rng.normal(9.0, 1.0, len(gone)))
    own = np.concatenate([bad, later])
    return Case(slice(0, 0), rows, 0, own, past=past, step=step)


def shares(make, n, seed, **asked):
    """Return how often each verdict came in n stories, and how often the condition cleared."""
    rng = np.random.default_rng(seed)
    cases = [make(rng) for _ in range(n)]
    said = [verdict(case, **asked).verdict for case in cases]
    out = {v: said.count(v) / n for v in ("helped", "no_effect", "harmed", "cannot_tell")}
    return out | {"cleared": sum(map(cleared, cases)) / n}
