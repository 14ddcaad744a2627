"""Root cause: ranked hypotheses for one incident, each with its evidence, and why the others were rejected.

    incident -> Look (what moved, from when, against its own past) -> cases -> cross -> probabilities -> Diagnosis

`rules/` has short functions, a file for each branch of the tree of causes; each returns cases: a kind of cause on an
entity with evidence as log-odds (`weights.py`). `diagnose.py` weighs them together with those of other makers, after
`cross.py` has let them weigh on each other. `unknown` stands at zero, so that weak evidence names nobody; it then says
who has moved most (`general.py`, on the ranker in `rank.py`), or that the metrics show nothing. Pure: reads world and
history, writes nothing.
"""

from agent.rca.diagnose import diagnose, same_answer
from agent.rca.look import Look

__all__ = ["Look", "diagnose", "same_answer"]
