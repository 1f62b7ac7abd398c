"""`make audit` passes only where every package was looked up by somebody who knows of vulnerabilities."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "audit.py"
SPEC = importlib.util.spec_from_file_location("audit", SCRIPT)
audit = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(audit)

VULNERABLE = {"name": "jinja2", "version": "2.10", "vulns": [{"id": "X", "fix_versions": ["3"]}]}


def advisories(monkeypatch, answers, known=True):
    """A service that says `answers` of whatever is asked, and knows the old release or not."""
    asked = []

    def ask(requirements, service):
        asked.append(service)
        if requirements == [audit.KNOWN]:
            return [VULNERABLE] if known is True else known
        return answers(requirements)

    monkeypatch.setattr(audit, "ask", ask)
    monkeypatch.setattr(audit, "installed", lambda python: ["a==1", "b==2"])
    return asked


def sound(requirements):
    pairs = (each.split("==") for each in requirements)
    return [{"name": name, "version": version, "vulns": []} for name, version in pairs]


def test_all_looked_up_and_none_vulnerable(monkeypatch, capsys):
    advisories(monkeypatch, sound)
    assert audit.main(sys.executable) == 0
    assert "2 packages were looked up (pypi), 0 are vulnerable" in capsys.readouterr().out


def test_a_vulnerable_package_is_named(monkeypatch, capsys):
    advisories(monkeypatch, lambda wanted: [*sound(wanted[:1]), VULNERABLE])
    assert audit.main(sys.executable) == 1
    assert "jinja2 2.10: X, fixed in 3" in capsys.readouterr().out


# What pip-audit says of a mirror without advisories, of one that does not answer, and of a service without any.
@pytest.mark.parametrize(
    "known",
    [
        [{"name": "jinja2", "skip_reason": "Dependency not found on PyPI"}],
        None,
        [],
        [{"name": "jinja2", "version": "2.10", "vulns": []}],
    ],
)
def test_advisories_that_cannot_be_reached_never_pass(known, monkeypatch, capsys):
    asked = advisories(monkeypatch, sound, known=known)
    assert audit.main(sys.executable) == 2
    assert asked == ["pypi", "osv"]
    assert "the advisories cannot be reached here" in capsys.readouterr().err


@pytest.mark.parametrize(
    "answers",
    [
        lambda wanted: sound(wanted[:1]),
        lambda wanted: None,
        lambda wanted: [*sound(wanted[:1]), {"name": "b", "skip_reason": "not found"}],
    ],
)
def test_a_package_that_was_not_looked_up_never_passes(answers, monkeypatch, capsys):
    advisories(monkeypatch, answers)
    assert audit.main(sys.executable) == 2
    assert "could not be looked up" in capsys.readouterr().err


def test_packages_of_an_environment_are_listed():
    found = audit.installed(sys.executable)
    assert any(each.startswith("torch==") and "+" not in each for each in found)
    assert not any(each.startswith("visualquality") for each in found)
