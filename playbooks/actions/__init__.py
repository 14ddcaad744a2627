"""The verbs. Each names beside itself the small ability that it needs; a connector just has it.

Importing this package registers every built-in action: one line each.
"""

from playbooks.actions import ask as ask
from playbooks.actions import collect as collect
from playbooks.actions import commands as commands
from playbooks.actions import files as files
from playbooks.actions import flags as flags
from playbooks.actions import gpu as gpu
from playbooks.actions import kill as kill
from playbooks.actions import limits as limits
from playbooks.actions import machine as machine
from playbooks.actions import models as models
from playbooks.actions import nodes as nodes
from playbooks.actions import process as process
from playbooks.actions import restart as restart
from playbooks.actions import retrain as retrain
from playbooks.actions import rollouts as rollouts
from playbooks.actions import scale as scale
from playbooks.actions import silence as silence
from playbooks.actions import tell as tell
from playbooks.actions import traffic as traffic
from playbooks.actions import wait as wait
