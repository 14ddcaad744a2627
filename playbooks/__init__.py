"""Playbooks: YAML sentences, one file each, and in `actions/` the verbs that they are made of."""
