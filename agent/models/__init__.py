"""Predictions and late labels become model metrics.

watch      what comes in and what goes out: the one door of this package
state      what is kept of a model, its versions and its tenures, in arrays of fixed size
labels     whether labels come as they used to, and can be true
replicas   which replica answers otherwise than its peers
numbers    accuracy, traffic, coverage ... out of that state
facts      what is known, for rules and for people
keep       state to bytes and back
"""

from agent.models.facts import ModelFacts, VersionFacts
from agent.models.watch import ModelWatch

__all__ = ["ModelFacts", "ModelWatch", "VersionFacts"]
