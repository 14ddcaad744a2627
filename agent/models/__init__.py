"""Predictions and late labels become model metrics.

watch      what comes in and what goes out: the one door of this package
made       what a version is held against, made of rows, here or in the worker process
held       rows that wait while it is made
state      what is kept of a model, its versions and its tenures, in arrays of fixed size
rows       rows are counted, and wait for their labels
truth      labels find their rows, and speak
labels     whether labels come as they used to, and can be true
replicas   which replica answers otherwise than its peers
numbers    accuracy, traffic, coverage ... out of that state
versus     versions and variants against each other
outputs    drift of what a version says; generated: tokens, time to the first one, why it stopped
tags       tags as slices
sketched   rows that were counted where they were made
strays     labels that name no model
reasons    what a change of the loss is made of, and what drove one answer
facts      what is known, for rules and for people; asked: what they ask of one model
keep       state to bytes and back
"""

from agent.models.facts import ModelFacts, VersionFacts
from agent.models.watch import ModelWatch

__all__ = ["ModelFacts", "ModelWatch", "VersionFacts"]
