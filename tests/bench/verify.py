"""How honest verdicts are: made-up series in which we know whether the act did it.

    make bench-verify                    # or: python tests/bench/verify.py [--stories 200] [--seed 0] [--only NAME]

A story is a series, an act, and looks while rows come in (`verify_worlds`): 300 ordinary rows before, six rows after
the act that are not looked at, forty that are. Sets:

    nothing    no fault: noise of autocorrelation phi triggers by itself (two rows in a row beyond 3 deviations), and we
               act up to 14 rows later. Whatever follows was not the act's doing
    cured      a fault of 3 robust deviations that had stood for 60 rows ends with the act
    harmed     the act makes it worse by 3 deviations, without a fault; worsened: with one
    lasting    a fault of 3 deviations that the act does not touch
    stood N    cured, but the fault had stood for N rows only

by road: `forecast` (alone), `peers` (three with the same symptom), `past` (5 rows of five minutes, durations of past
troubles are all there is). `together` draws peers or none for each story. Beside us stands what most tools ask:
`condition_cleared`, whether the condition was no longer met for three rows.

Figures, written to build/bench/verify.json: share of stories called helped, harmed, no_effect, cannot_tell.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

# beside this file `agent.py`, a benchmark, would hide the package
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from verify_worlds import Case, Noise, faulty, lasting, shares, triggered

US, CLEARED = "homeostat", "condition_cleared"
PHIS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
PEERS = 3
Make = Callable[[np.random.Generator], Case]


def of(noise: Noise, *, usual: int = 300, peers: int = 0) -> dict[str, Make]:
    """Return the sets of one kind of noise."""
    more = {"usual": usual, "peers": peers}
    return {
        "nothing": lambda r: triggered(noise, r, **more),
        "cured": lambda r: faulty(noise, r, **more),
        "harmed": lambda r: faulty(noise, r, size=0.0, effect=3.0, **more),
        "worsened": lambda r: faulty(noise, r, effect=3.0, **more),
        "lasting": lambda r: faulty(noise, r, effect=0.0, **more),
    }


def drawn(few: Make, many: Make) -> Make:
    """Return stories of which half have peers."""
    return lambda r: (many if r.random() < 0.5 else few)(r)


ODD: dict[str, Noise] = {
    "heavy tails": Noise(0.8, tail=3),
    "measured badly": Noise(0.9, seen=1.0),
    "steps": Noise(0.5, steps=150.0),
    "trend": Noise(0.8, trend=0.5),
    "season": Noise(0.8, season=3.0),
    "missing 30 %": Noise(0.8, missing=0.3),
    "coarse": Noise(0.8, grain=1.5),
}


def sets() -> dict[str, Make]:
    """Return all sets by name, in the order of the table."""
    out: dict[str, Make] = {}
    for phi in PHIS:
        noise = Noise(phi)
        forecast, peers = of(noise), of(noise, peers=PEERS)
        for name, make in forecast.items():
            out[f"forecast, phi {phi:g}, {name}"] = make
        for name, make in peers.items():
            out[f"peers, phi {phi:g}, {name}"] = make
        out[f"peers, phi {phi:g}, all recover"] = lambda r, noise=noise: faulty(
            noise, r, peers=PEERS, spared=PEERS
        )
        for name in ("nothing", "cured", "harmed"):
            out[f"together, phi {phi:g}, {name}"] = drawn(forecast[name], peers[name])
    for stood in (3, 5, 8, 15, 30):
        out[f"forecast, phi 0.8, stood {stood}"] = lambda r, stood=stood: faulty(
            Noise(0.8), r, stood=stood
        )
    for name, make in of(Noise(0.8), usual=60).items():
        out[f"forecast, phi 0.8, 60 usual rows, {name}"] = make
    for kind, noise in ODD.items():
        for name, make in of(noise).items():
            out[f"forecast, {kind}, {name}"] = make
    for known in (0, 3, 20):
        by_itself = {"mean": 3600.0, "known": known}
        by_act = {"mean": 40 * 3600.0, "known": known, "ends": 600.0}
        out[f"past, {known} known, ends by itself"] = lambda r, k=by_itself: lasting(r, **k)
        out[f"past, {known} known, cured"] = lambda r, k=by_act: lasting(r, **k)
    return out


def main() -> None:
    """Run all sets, print the table, write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--stories", type=int, default=200, help="of each set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="sets whose name holds this")
    parser.add_argument("--out", type=Path, default=Path("build/bench/verify.json"))
    asked = parser.parse_args()
    tell(f"{'set':46} {'helped':>7} {'harmed':>7} {'no eff.':>7} {'?':>7}   {'cleared':>7}")
    rows: list[dict[str, object]] = []
    for name, make in sets().items():
        if asked.only not in name:
            continue
        said = shares(make, asked.stories, asked.seed)
        tell(
            f"{name:46} {said['helped']:7.3f} {said['harmed']:7.3f} {said['no_effect']:7.3f} "
            f"{said['cannot_tell']:7.3f}   {said['cleared']:7.3f}"
        )
        rows.append(
            {"set": name, "subject": CLEARED, "figure": "helped", "value": said.pop("cleared")}
        )
        rows += [{"set": name, "subject": US, "figure": k, "value": v} for k, v in said.items()]
    report = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "stories": asked.stories, "rows": rows,
    }  # fmt: skip
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(report, indent=1))
    tell(f"{report['machine']}; {asked.stories} stories a set; written to {asked.out}")


def tell(line: str) -> None:
    """Print a line of the table as soon as it is known."""
    print(line, flush=True)  # noqa: T201  # a table is what is asked for


if __name__ == "__main__":
    main()
