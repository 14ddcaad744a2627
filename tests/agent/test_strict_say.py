"""Faults of values that no file holds are told in our words, all of them, and no secret with them."""

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent import registry
from agent.config import ConnectorConfig
from agent.daemon import make_connector
from agent.errors import Refused
from agent.strict import say


class Wanted(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    service: str
    every: int = Field(default=1, ge=1)
    token: int = 0


def said(**values):
    with pytest.raises(ValidationError) as caught:
        Wanted(**values)
    return say(caught.value)


def test_what_is_missing_is_named_with_what_to_write():
    assert said() == "service: it is missing; write `service: ...`"


def test_all_faults_are_told_at_once():
    assert said(service="web", every=0, nonsense=1) == (
        "every: `0` is out of bounds: at least 1. nonsense: there is no such key"
    )


def test_a_secret_is_not_shown():
    assert "hunter2" not in said(service="web", token="hunter2")


def test_a_connector_that_lacks_keys_says_which(tmp_path):
    registry.load()
    wanted = (
        "connector docker: service, labels: they are missing; write `service: ...`, `labels: ...`"
    )
    with pytest.raises(Refused, match=wanted):
        make_connector("docker", ConnectorConfig(), tmp_path)


def test_a_secret_that_is_written_out_is_told_where_it_belongs(tmp_path):
    registry.load()
    own = {"url": "https://hooks.example.org/in", "secret": "hunter2"}
    with pytest.raises(Refused, match="secret: what is written is not where a secret is") as caught:
        make_connector("webhook", ConnectorConfig.model_validate(own), tmp_path)
    assert "write env:NAME or file:/PATH" in str(caught.value)
    assert "hunter2" not in str(caught.value)
