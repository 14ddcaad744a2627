"""Root cause: ranked hypotheses for one incident, each with its evidence, and why the others were rejected.

    incident -> Look (what moved, from when, against its own past) -> rules -> log-odds -> probabilities -> Diagnosis

Rules are short functions in `rules.py`, one a family of causes; each returns a `Case`: a kind of cause on an entity
with evidence as log-odds. `unknown` stands at zero, so that weak evidence names nobody; it then says who has moved most
(`general.py`, on the ranker in `rank.py`), or that the metrics show nothing. Pure: reads world and history,
writes nothing.
"""

from agent.rca.diagnose import diagnose, same_answer
from agent.rca.look import Look

__all__ = ["Look", "diagnose", "same_answer"]
