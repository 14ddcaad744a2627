"""How much each reason weighs, in log-odds: the one table, meant to be replaced by learnt numbers.

+1 makes a cause 2.7 times as probable, +3 twenty times. A rule scales a weight by how far a signal has moved (a share
0..1); the trust level of the source scales it again. All of this is judgement: what is decisive by definition (a GPU
that does not answer) weighs 4 and more, what is typical 2 to 3, what merely fits 1 or less. `docs/diagnosis.md` says
for each cause what speaks for and against it.
"""

from __future__ import annotations

from typing import Final

PRIOR: Final = -2.0
"""Where a case starts: `unknown` stands at zero, so one weak reason names nobody."""

UNTRUSTED: Final = 0.5
"""What a source that is stated to be untrusted says counts half, for and against."""

WEIGHTS: Final[dict[str, float]] = {
    # ---- any
    "own reason": -2.0,  # the cause that is meant has a reason of its own, which is then the root
    # ---- serving
    "traffic up": 4.0,
    "traffic flat, not saturated": -2.5,
    "scaled down by somebody": 3.5,
    "fewer replicas": 1.5,
    "requests wait": 1.5,
    "workers busy": 0.5,
    "autoscaler at its most": 0.5,
    "cache used up": 1.0,
    "requests put back": 0.5,
    "work itself slower": -1.0,
    "no answer": 3.0,
    "replicas gone": 2.5,
    "replicas missing": 1.5,
    "starts again and again": 3.0,
    "killed for want of memory": 3.0,
    "can not be started": 3.0,
    "requests fail": 1.0,
    "nothing comes through": 3.5,
    "restarted": 2.0,
    "restarted by somebody": -3.0,
    "restarted right before": 2.0,
    "scaled on purpose": -2.0,
    "apart from peers": 4.5,
    "answers apart from peers": 6.0,
    "peers are well": -3.0,
    "it runs on the one": 1.0,
    "callee unwell": 2.5,
    "callee down": 3.5,
    "callee no earlier": -1.0,
    "callee flat inside": -3.0,
    "own work as usual": 0.5,
    "more work a request": 2.5,
    "mix: traffic flat": 0.5,
    "requests look different": 2.0,
    "mix: released": -3.0,
    # ---- host
    "stated": 2.5,
    "out of its band": 1.0,
    "measured": 1.5,
    "decisive": 4.0,
    "strong": 3.0,
    "rarely explains a service": -1.0,
    "neighbour took": 3.5,
    "neighbour on the GPU": 3.0,
    "nobody took more": -3.0,
    "own traffic flat": 1.0,
    "own traffic up": -2.0,
    "work takes longer": 1.0,
    "tasks wait": 1.0,
    "disk slow": 1.0,
    "stolen or throttled": 3.5,
    "caller slow, callee flat": 3.5,
    "sent again": 1.5,
    "a callee explains the wait": -3.0,
    # ---- hardware
    "gpu fault": 4.5,
    "gpu slowed": 1.0,
    "idle": -4.0,
    "throttled, says why": -3.0,
    # ---- release
    "released before": 4.0,
    "service released before": 3.5,
    "callee changed before": 3.5,
    "callee restarted or scaled before": 2.0,
    "model changed before": 3.0,
    "host changed before": 2.5,
    "an edge further": -0.6,
    "what changed is unwell": 1.5,
    "what changed is well": -2.0,
    "long before": -1.5,
    "released after": -2.5,
    "no release": -5.0,
    "worse than previous": 1.0,
    "worse than beside": 6.0,
    "accuracy low": 1.0,
    "predictions moved with it": 0.5,
    "inputs as ever": 1.0,
    "inputs moved": -1.0,
    "a broken feature explains it": -3.0,
    # ---- data, concept, labels
    "contract": 5.0,
    "others are well": 1.0,
    "released too": -0.5,
    "how broken": 0.5,
    "many stuck at once": 6.0,
    "stuck with others": -4.0,
    "run missed": 6.0,
    "run late": 4.0,
    "run short": 5.0,
    "run schema": 6.0,
    "features drifted": 3.0,
    "each feature drifted": 0.5,
    "drift: contract": -4.0,
    "drift: released": -1.0,
    "quality does not suffer": -4.0,
    "labels and predictions moved alike": 5.0,
    "prior: released": -3.0,
    "prior: beyond the mix": -4.0,
    "drift: only the mix": -2.5,
    "drift: beyond the mix": 0.5,
    "accuracy on labels low": 1.5,
    "accuracy below reference": 0.5,
    "concept: inputs as ever": 2.0,
    "concept: inputs moved": -1.5,
    "concept: released": -4.0,
    "concept: not released": 1.0,
    "concept: labels missing": -2.0,
    "concept: mix moved alike": -2.5,
    "relation changed": 1.0,
    "concept: labels wrong": -4.0,
    "labels late": 4.0,
    "labels missing": 3.5,
    "labels slow": 3.5,
    "labels stepped": 1.5,
    "labels wrong": 5.5,
    # ---- observer
    "blind": 6.0,
    # ---- between causes
    "hardware beats models": -2.0,
    "hardware beats serving": -1.5,
    "contract explains it": -3.0,
    "release first": -1.5,
    "who takes it is known": -2.5,
    "out of memory explains it": -2.5,
}
