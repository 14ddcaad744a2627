"""Known secrets are struck out of errors, logs and last words, however they are written."""

import base64
import json
import logging
import subprocess
import sys
from urllib.parse import quote, quote_plus

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agent import strike
from agent.errors import Refused, Unavailable
from agent.secret import Headers, Reference, environment_of, secret
from agent.strike import forms, learn
from agent.strike import strike as struck
from agent.units import Model


@pytest.fixture(autouse=True)
def _none_known(monkeypatch):
    monkeypatch.setattr(strike, "_known", type(strike._known)())


ODD = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=8, max_size=40)


@given(ODD, st.binary(max_size=5), st.binary(max_size=5))
def test_a_secret_is_found_in_every_form_in_which_it_travels(value, before, after):
    raw = value.encode()
    wrapped = base64.b64encode(before + raw + after).decode()
    learn(value)
    for text in (
        value, quote(value, safe=""), quote_plus(value), json.dumps({"a": value}), repr([value]),
    ):  # fmt: skip
        assert value not in struck(f"see {text} there")
        assert struck(text) != text
    assert struck(wrapped) != wrapped


def test_what_stands_behind_bearer_and_in_basic_is_found_alone():
    learn("Bearer tok-12345678")
    assert struck("token tok-12345678.") == "token ***."
    learn("Basic " + base64.b64encode(b"me:pa55word-long").decode())
    assert struck("login of me with pa55word-long") == "login of me with ***"


def test_short_ones_are_no_secrets_and_words_stay():
    learn("prod")
    learn("")
    assert struck("prod is fine") == "prod is fine"
    assert all(forms("abc"))


def test_only_so_many_are_kept_and_the_newest_are(monkeypatch):
    monkeypatch.setattr(strike, "_MOST", 3)
    for i in range(5):
        learn(f"secret-{i:04}")
    learn("secret-0002")
    learn("secret-0005")
    said = struck(" ".join(f"secret-{i:04}" for i in range(6)))
    assert said == "secret-0000 secret-0001 *** secret-0003 *** ***"


def test_an_error_of_ours_never_holds_one(monkeypatch, tmp_path):
    monkeypatch.setenv("TOKEN", "env-secret-1")
    (tmp_path / "s").write_text("file-secret-2\n")
    assert secret("env:TOKEN") == "env-secret-1"
    assert secret(f"file:{tmp_path / 's'}") == "file-secret-2"
    assert str(Refused("no: env-secret-1 and file-secret-2")) == "no: *** and ***"
    assert str(Unavailable("env-secret-1", wait_s=3.0)) == "***"


def test_variables_for_programs_are_known_when_they_sound_like_secrets(monkeypatch):
    monkeypatch.setenv("DB_PASSWORD", "pw-12345678")
    monkeypatch.setenv("LANGUAGES", "lang-12345678")
    found = environment_of(["DB_PASSWORD", "LANGUAGES", "NOT_THERE_AT_ALL"])
    assert found == {"DB_PASSWORD": "pw-12345678", "LANGUAGES": "lang-12345678"}
    assert struck("pw-12345678 lang-12345678") == "*** lang-12345678"


class Way(Model):
    token: Reference = ""
    headers: Headers = {}


def test_a_secret_that_is_written_itself_is_refused_and_not_repeated():
    for bad in ({"token": "hunter2hunter2"}, {"headers": {"X-Auth-Token": "hunter2hunter2"}}):
        with pytest.raises(ValidationError) as failed:
            Way(**bad)
        assert "hunter2" not in str(failed.value)
    good = {"Authorization": "env:A", "X-Scope-OrgID": "team-a"}
    assert Way(token="file:/run/secrets/a", headers=good).headers == good


CRASH = """
import logging, sys, threading
import structlog
from agent.strike import learn
from agent.telemetry import set_up_logging
set_up_logging(as_json={as_json})
held = learn("crash-secret-{n}")
log = structlog.get_logger()
log.warning("event", said=held, headers={{"a": "Basic " + held}})
try:
    raise ValueError(held)
except ValueError:
    log.exception("broke")
    logging.getLogger("library").exception("lost %s", held)
def beside():
    raise KeyError(held)
one = threading.Thread(target=beside)
one.start()
one.join()
class End(BaseException):
    pass
raise End(held)
"""


@pytest.mark.parametrize("as_json", [True, False])
def test_logs_tracebacks_and_last_words(as_json):
    code = CRASH.format(as_json=as_json, n="77")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert "crash-secret" not in said
    assert said.count("ValueError") >= 2
    for word in ("event", "library: lost ***", "KeyError: '***'", "End: ***"):
        assert word in said
    if as_json:
        broke = next(json.loads(x) for x in said.splitlines() if '"broke"' in x)
        assert all("locals" not in f or not f["locals"] for f in broke["exception"][0]["frames"])


def test_what_a_log_says_otherwise_is_as_it_was():
    with structlog.testing.capture_logs() as logs:
        structlog.get_logger().info("x", said="y")
    assert logs == [{"event": "x", "said": "y", "log_level": "info"}]
    assert logging.getLogger("httpx").level >= logging.WARNING
