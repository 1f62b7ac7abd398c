"""Asks public advisories about every package of an environment: python .ci/audit.py PYTHON, run by `make audit`.

It passes only where each package was looked up and none has a known vulnerability. pip-audit by itself passes too where
a mirror knows of no advisories at all; so a release whose vulnerability everybody knows is asked about first.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SERVICES = ("pypi", "osv")
KNOWN = "jinja2==2.10"  # CVE-2019-10906
OURS = "visualquality"


def ask(requirements: list[str], service: str) -> list[dict[str, Any]] | None:
    """What a service says of each package, or None where it cannot be asked."""
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "requirements.txt"
        listed.write_text("\n".join(requirements) + "\n")
        command = [
            sys.executable,
            "-m",
            "pip_audit",
            "-r",
            str(listed),
            "--no-deps",
            "--disable-pip",
        ]
        command += ["-s", service, "-f", "json", "--progress-spinner", "off"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return None


def knows(service: str) -> bool:
    """Whether the advisories of a service can be reached from here."""
    found = ask([KNOWN], service)
    return bool(found) and all(package.get("vulns") for package in found)


def installed(python: str) -> list[str]:
    """The packages of an environment, as name==version."""
    command = [python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    packages = json.loads(done.stdout)
    # A build such as 2.13.0+cpu has the advisories of 2.13.0.
    versions = {each["name"]: each["version"].partition("+")[0] for each in packages}
    return [f"{name}=={version}" for name, version in versions.items() if name.lower() != OURS]


def main(python: str) -> int:
    service = next(filter(knows, SERVICES), None)
    if service is None:
        where = " nor ".join(SERVICES)
        print(
            f"audit failed: the advisories cannot be reached here (neither {where} knows that {KNOWN} is vulnerable), "
            "so nothing was checked; run it where the internet is",
            file=sys.stderr,
        )
        return 2
    wanted = installed(python)
    found = ask(wanted, service) or []
    unasked = [each["name"] for each in found if "skip_reason" in each]
    if len(found) < len(wanted) or unasked:
        missing = len(wanted) - len(found) + len(unasked)
        named = f": {', '.join(unasked[:10])}" if unasked else ""
        print(f"audit failed: {missing} packages could not be looked up{named}", file=sys.stderr)
        return 2
    vulnerable = [each for each in found if each["vulns"]]
    for each in vulnerable:
        for vulnerability in each["vulns"]:
            fixed = ", ".join(vulnerability["fix_versions"]) or "nowhere yet"
            print(f"{each['name']} {each['version']}: {vulnerability['id']}, fixed in {fixed}")
    print(f"{len(found)} packages were looked up ({service}), {len(vulnerable)} are vulnerable")
    return 1 if vulnerable else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
