"""Predictions and late labels become model metrics.

watch      what comes in and what goes out: the one door of this package
made       what a version is held against, made of rows, here or in the worker process
held       rows that wait while it is made
state      what is kept of a model, its versions and its tenures, in arrays of fixed size
numbers    accuracy, traffic, coverage ... out of that state
facts      what is known, for rules and for people
keep       state to bytes and back
"""

from agent.models.facts import ModelFacts, VersionFacts
from agent.models.watch import ModelWatch

__all__ = ["ModelFacts", "ModelWatch", "VersionFacts"]
