"""Drift of model inputs and of errors: evidence with a bound on false alarms, and size beside it.

reference   what a version is used to: bins, shares, magnitudes
scores      what is asked of each column: place, spread, shares
pairs       joint change: products of two columns
evidence    e-values: how surely rows are no longer like that
season      how much more than chance rows wander: the design effect
shifts      evidence, size and design effect of all columns together
contract    missing, type, unit, range, stuck: what a person would call broken
features    all inputs of one version: counts in, states out (`@drift("features")`)
labelled    what late labels say (`@drift("labelled")`), of:
concept       has the relation to the label changed
estimate      accuracy before there are labels
quality       figures with bounds, by slice and group
errors      the share of errors of one version (`@drift("errors")`)
succession  what took over against what it took over from (`@drift("succession")`)
apart       one replica that answers otherwise than its peers (`@drift("apart")`)
compare     one version against another (`@drift("comparison")`)
domain      whether new rows can be told from old ones, by all features together (`@drift("domain")`)
cells       counts instead of rows, over the edges of the reference (`@drift("cells")`)
parts       what a change of the loss is made of, and what drove one answer (`@drift("parts")`), of:
attribution   what the bins of features are worth in loss
explain_one   one row against the reference, or the model asked itself
"""

from detectors.drift.apart import Apart
from detectors.drift.cells import Cells
from detectors.drift.compare import Comparison
from detectors.drift.domain import Domain
from detectors.drift.errors import Errors
from detectors.drift.features import Features
from detectors.drift.labelled import Labelled
from detectors.drift.parts import Parts
from detectors.drift.succession import Succession

__all__ = [
    "Apart",
    "Cells",
    "Comparison",
    "Domain",
    "Errors",
    "Features",
    "Labelled",
    "Parts",
    "Succession",
]
