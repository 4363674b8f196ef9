import os

import pytest

from alexnet_jax.host import machine

GIB = 2**30


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Puts this process into control groups: the kernel's text that names them, and limits."""

    def made(own: str, limits: dict[str, str]) -> None:
        (tmp_path / "own").write_text(own)
        for name, limit in limits.items():
            file = tmp_path / "groups" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(limit + "\n")

    monkeypatch.setattr(machine, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(machine, "CONTROL_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**24}.get)  # 64 GiB
    return made


@pytest.mark.parametrize(
    ("own", "limits", "gib"),
    [
        ("0::/\n", {"memory.max": "max"}, 64),
        ("0::/\n", {"memory.max": str(6 * GIB)}, 6),  # a container
        ("0::/job/7/step\n", {"job/7/memory.max": str(3 * GIB), "job/memory.max": "max"}, 3),
        ("0::/seen/from/outside\n", {"memory.max": str(5 * GIB)}, 5),
        ("4:cpu:/\n3:memory:/job\n", {"memory/job/memory.limit_in_bytes": str(2 * GIB)}, 2),
        ("3:memory:/\n", {"memory/memory.limit_in_bytes": str(2**63 - 4096)}, 64),  # none
        ("3:memory:/job\n", {"memory.max": str(GIB)}, 64),  # of the other version
    ],
)
def test_a_job_has_what_its_control_groups_leave(groups, own, limits, gib):
    groups(own, limits)
    assert machine.memory() == gib * GIB


def test_without_control_groups_there_is_the_machine(groups):
    assert machine.memory() == 64 * GIB
