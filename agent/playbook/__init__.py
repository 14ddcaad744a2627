"""Playbooks: sentences in YAML that say for which cause, on what, under which guard, what is done and how it is proven.

    version: 1
    id: serve-bad-deploy               # the key by which built-in, team's and site's playbooks are merged
    title: Roll back a model version that is worse than the one before
    mode: suggest                      # observe | suggest | approve | auto: a ceiling
    target: {kind: model}
    because: {cause: release.model, min_confidence: 60%}
    when: ['model.accuracy_ratio < baseline.model.accuracy_ratio - 0.02']
    unless: ['model.labelled_rows_count < 50.0']
    guard: {cooldown: {per: target, time: 1h}, attempts: {max: 1, per: 24h}}
    do:
      - {id: roll_back, use: roll_back, undo: auto}
    verify: {wait: 1m, within: 10m, expect: ['model.accuracy_ratio > 0.9'], otherwise: escalate}
    then: [{use: notify, with: {text: '${title}: ${verdict.summary}'}}]
    tests:
      - {name: an old release, given: {model.accuracy_ratio: 0.95}, fires: false}
      - {name: it falls, feed: {series: {model.accuracy_ratio: {step: [0.95, 0.7], at: 5m}}}, expect: {fires: 1}}

The library is the built-in playbooks with the ones of the user laid over them by `id`: mappings field by field,
lists as a whole, but `do` and `then` whose steps say no `use` change the steps of the same `id`. All that can be
known at load is checked at load: names, types and units of every expression, verbs and their parameters.

language   what a person may write, as models; `Playbook` with what follows from it
library    the files, laid over each other by id
check      what only catalogue, causes, verbs and connectors together can tell: names, types, units, undo
trial      what its own tests may say
plan       what a run is going to do, fixed
verbs      what the steps' verbs say of themselves

For authors only, and never loaded by the daemon: `examples` and `feeds` (a playbook's own tests), `schema`, `template`,
`style`, `explain` with `sentences`, and `flow`.
"""

from agent.playbook.language import Guard, Playbook, lowest
from agent.playbook.library import Library

__all__ = ["Guard", "Library", "Playbook", "lowest"]
