"""The engine's seccomp profile says what the local driver's filter says, as far as it can."""

import json

from afarensis_server.sandbox.docker.profile import OWN_ONLY, profile
from afarensis_server.sandbox.zygote import seccomp
from afarensis_server.sandbox.zygote.syscall_numbers import NUMBERS


def _by_action() -> dict[tuple[str, int | None], set[str]]:
    found: dict[tuple[str, int | None], set[str]] = {}
    for rule in json.loads(profile())["syscalls"]:
        if not rule.get("args"):
            found.setdefault((rule["action"], rule.get("errnoRet")), set()).update(rule["names"])
    return found


def test_what_is_not_named_is_unknown() -> None:
    written = json.loads(profile())
    assert (written["defaultAction"], written["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 38)


def test_every_call_of_the_table_is_in_it_once_with_the_same_answer() -> None:
    rules = _by_action()
    allowed, forbidden = rules["SCMP_ACT_ALLOW", None], rules["SCMP_ACT_ERRNO", 1]
    by_argument = {"clone", "socket", "socketpair", *OWN_ONLY}
    assert set(seccomp.ALLOWED.split()) <= allowed | set(OWN_ONLY)
    # What installs the filter that forbids it, for the agent.
    assert set(seccomp.FORBIDDEN.split()) - forbidden == {"seccomp"}
    assert set(NUMBERS) <= allowed | forbidden | by_argument | rules["SCMP_ACT_ERRNO", 38]
    assert not allowed & forbidden
    assert not allowed & by_argument
    assert not rules["SCMP_ACT_ERRNO", 38] & (allowed | forbidden)


def test_namespaces_and_networks_are_refused_by_argument() -> None:
    rules = [rule for rule in json.loads(profile())["syscalls"] if rule.get("args")]
    conditional = {name: rule for rule in rules for name in rule["names"]}
    (clone,) = conditional["clone"]["args"]
    assert (clone["value"], clone["valueTwo"], clone["op"]) == (seccomp.NAMESPACE_FLAGS, 0, "SCMP_CMP_MASKED_EQ")
    for name in ("socket", "socketpair"):
        (family,) = conditional[name]["args"]
        assert (family["index"], family["value"], family["op"]) == (0, seccomp.AF_UNIX, "SCMP_CMP_EQ")
