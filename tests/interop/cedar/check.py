"""Decides what `muster-policies export` wrote with cedarpy, and compares.

usage: check.py DIR

Prints one result line for each check, as tests/interop/README.md describes.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import cedarpy

CLIENT = "cedarpy"


def say(check: str, ok: bool, detail: str) -> None:
    line = {
        "client": CLIENT,
        "version": version("cedarpy"),
        "check": check,
        "ok": ok,
        "detail": detail,
    }
    print(json.dumps(line), flush=True)


def verdict(reasons: set[str], allowed: bool, failed: bool) -> str:
    """Ours: what could not be evaluated refuses, where Cedar passes over it."""
    return "allow" if allowed and not failed else "refuse"


def decide(folder: Path) -> None:
    schema = (folder / "schema.cedarschema").read_text()
    differences: list[str] = []
    decided = allowed = failures = 0
    for text in sorted(folder.glob("*.cedar")):
        policies = cedarpy.PolicySet.from_str(text.read_text())
        requests = folder / f"{text.stem}.requests.jsonl"
        for number, line in enumerate(requests.read_text().splitlines()):
            ours = json.loads(line)
            request = ours["request"]
            uid = lambda side: f"{request[side]['type']}::{json.dumps(request[side]['id'])}"
            result = cedarpy.is_authorized(
                request={
                    "principal": uid("principal"),
                    "action": uid("action"),
                    "resource": uid("resource"),
                    "context": request["context"],
                },
                policies=policies,
                entities=request["entities"],
                schema=schema if number % 50 == 0 else None,
            )
            failed = bool(result.diagnostics.errors)
            by_name = result.diagnostics.id_annotations_by_reason
            reasons = sorted(by_name[reason] for reason in result.diagnostics.reasons)
            theirs = verdict(set(reasons), result.allowed, failed)
            # A refusal for a policy that failed names that policy; Cedar names what it found else.
            named = reasons == ours["policies"] or ours["reason"] == "policy_failed"
            if (
                theirs != ours["verdict"]
                or not named
                or len(result.diagnostics.errors) != len(ours["failed"])
            ):
                differences.append(f"{text.stem}#{number}: {ours['reason']} {ours['policies']}, there {result.decision} {reasons} {result.diagnostics.errors}")
            decided += 1
            allowed += theirs == "allow"
            failures += failed
    detail = f"{decided} requests, {allowed} allowed, {failures} with a policy that fails"
    if differences:
        detail = f"{len(differences)} of {decided} differ: {differences[0]}"
    enough = 0 < allowed < decided and failures > 0
    say("cedar-decisions", not differences and enough, detail)


def validate(folder: Path) -> None:
    schema = (folder / "schema.cedarschema").read_text()
    faults: list[str] = []
    sets = 0
    for text in sorted(folder.glob("*.cedar")):
        result = cedarpy.validate_policies(text.read_text(), schema)
        faults += [f"{text.stem}: {error}" for error in result.errors]
        sets += 1
    say("cedar-schema", not faults, faults[0] if faults else f"{sets} sets are valid")


if __name__ == "__main__":
    home = Path(sys.argv[1])
    validate(home)
    decide(home)
