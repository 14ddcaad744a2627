"""Strict YAML: what a person wrote, with the place of every key and value.

Good for config, services and playbooks; not for data (a file may hold 256 KiB). YAML 1.2 core scalars: `yes`,
`on` and `12:30` are text, `0777` is refused, quoted values stay text. Refused are what surprises people: a key
written twice, tags, merge keys, a second document, `yes/no/on/off` unquoted, tabs, anything but UTF-8. Aliases
are read, but what they expand to is counted, so that they can not grow without end.

    document = read(Path("agent.yaml"))        # never raises: faults are kept in the document
    config = check(Config, document)           # raises ConfigError with every fault at once

Cost: about 20 us a value (the pure Python scanner of PyYAML, for its exact marks).
"""

from agent.strict.checking import NAME, check, examine, keys_of, misfits, say
from agent.strict.document import Document, Part, Place, did_you_mean
from agent.strict.reading import MAX_BYTES, MAX_DEPTH, MAX_NODES, read

__all__ = [
    "MAX_BYTES", "MAX_DEPTH", "MAX_NODES", "NAME", "Document", "Part", "Place", "check", "did_you_mean", "examine",
    "keys_of", "misfits", "read", "say",
]  # fmt: skip
