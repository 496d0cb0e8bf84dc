"""`s4d doctor --hostfile` without hosts: comparing what they answered, and the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from s4d.cli import doctor_agent, main
from s4d.cli.doctor_hosts import Findings, check_exports, choose_addresses, compare
from s4d.cli.doctor_link import UnansweredError


def facts(number: int, **changed: Any) -> dict[str, Any]:
    address = f"10.0.0.{number}"
    values = {
        "versions": {"torch": "2.13.0"},
        "cores": 8,
        "devices": 0,
        "interfaces": {"lo": "127.0.0.1", "eth0": address},
        "own_address": address,
        "locks": [],
    }
    return {**values, **changed}


def told(findings: Findings) -> list[str]:
    return [f"{found.host}: {found.problem}" for found in findings.problems]


def test_hosts_are_compared_with_the_first() -> None:
    found = Findings(facts={"a": facts(1), "b": facts(2, versions={"torch": "2.12.0"}, locks=["/x/lock"])})
    compare(found, {"a": 8, "b": 9})
    assert told(found)[:2] == ["b: torch: 2.12.0, on a 2.13.0", "b: slots=9 but 8 cores"]
    assert len(found.problems) == 3 and found.problems[2].fix == "rm /x/lock"
    found = Findings(facts={"a": facts(1, devices=4)})
    compare(found, {"a": 8})
    assert told(found) == ["a: slots=8 but 4 devices"]


def test_an_interface_of_its_own_name_is_taken_unless_it_is_the_loopback() -> None:
    found = Findings(facts={"a": facts(1), "b": facts(2, own_address="127.0.1.1")})
    assert choose_addresses(found, None) == {"a": ("eth0", "10.0.0.1")}
    assert told(found) == ["b: its own name has no address of its own"] and "eth0 10.0.0.2" in found.problems[0].fix
    assert set(choose_addresses(Findings(facts=found.facts), "eth0")) == {"a", "b"}
    found = Findings(facts={"a": facts(1), "b": facts(2)})
    assert choose_addresses(found, "lo") == {} and "seen by this host alone" in told(found)[0]


def test_what_does_not_reach_the_ranks_is_told() -> None:
    found = Findings(facts={"a": facts(1), "b": facts(2)})
    check_exports(found, {"GLOO_SOCKET_IFNAME": "eth0", "DS_ACCELERATOR": "cpu"})
    assert told(found) == ["all hosts: OMP_NUM_THREADS does not reach the ranks from this machine"]
    found = Findings(facts={"a": facts(1, devices=8), "b": facts(2, devices=8)})
    check_exports(found, {})
    assert [line.partition(" ")[2] for line in told(found)] == [
        "hosts: GLOO_SOCKET_IFNAME does not reach the ranks from this machine"
    ]
    assert "GLOO_SOCKET_IFNAME=eth0" in found.problems[0].fix


def test_failures_of_ssh_have_a_fix() -> None:
    assert "ssh-copy-id" in UnansweredError("root@a: Permission denied (publickey).").fix
    assert UnansweredError("something new").fix


def test_the_agent_answers_here(tmp_path: Path) -> None:
    assert doctor_agent.place(str(tmp_path / "new/run")) == {"folder": str(tmp_path), "checkpoint_bytes": None}
    (tmp_path / "checkpoints/step-00000004").mkdir(parents=True)
    (tmp_path / "checkpoints/step-00000004/model").write_bytes(bytes(10))
    assert doctor_agent.place(str(tmp_path))["checkpoint_bytes"] == 10
    assert doctor_agent.write_token(str(tmp_path), "token") > 0
    assert doctor_agent.unseen_tokens(str(tmp_path), ["token"]) == []
    doctor_agent.remove_token(str(tmp_path), "token")
    assert not (tmp_path / "token").exists()
    port = doctor_agent.listen("127.0.0.1")
    assert doctor_agent.dial("127.0.0.1", {"a": ("127.0.0.1", port), "b": ("127.0.0.1", 1)}) == {
        "b": "Connection refused"
    }
    assert set(doctor_agent.facts()) >= {"versions", "cores", "devices", "interfaces", "own_address", "locks"}


def test_a_bad_hostfile_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "hosts").write_text("a 8\n")
    assert main(["doctor", "--hostfile", str(tmp_path / "hosts")]) == 2
    assert capsys.readouterr().err.startswith(f"s4d: error: {tmp_path}/hosts:1: 'a 8': expected a host")
