"""The shipped playbooks, read and checked once a session: what looks at them changes nothing of them."""

from agent import registry
from agent.config import Config
from agent.playbook import Library

registry.load()
LIBRARY = Library.load([], Config())
