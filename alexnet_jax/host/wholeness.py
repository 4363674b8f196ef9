"""The order in which the files of a folder are written to a bucket, and which of them are whole.

A file that vouches for others is written after them and removed before them. While a checkpoint is
being written or removed, one more object in it says so: it is written first and removed last.
"""

from collections.abc import Iterable

CHECKPOINTS = "checkpoints"  # a run's folder of them
RECORD = "checkpoints.json"  # what it knows of them
SEAL = "digests.json"  # of a checkpoint
MANIFEST = "manifest.json"  # of a store
PROGRESS = "progress.npz"  # of one that is being made
UNSEALED = ".unsealed"  # in the name of a folder that is no checkpoint yet, or no longer one
CHANGING = "changing"  # the object in a checkpoint that is being written or removed

# Written after all others, in this order: Orbax's success marker on file systems that cannot
# rename, then the files that seal a folder, then those that describe it.
LAST = ("commit_success.txt", SEAL, PROGRESS, MANIFEST, RECORD)
_UNFINISHED = (UNSEALED, ".orbax-checkpoint-tmp", ".part-")


def is_folder(name: str) -> bool:
    """Does a name stand for a folder, which is there while it is empty?"""
    return name.endswith("/")


def is_unfinished(name: str) -> bool:
    """Is a file or folder of this name unfinished, and of no use to others?"""
    return name.endswith(".tmp") or any(sign in name for sign in _UNFINISHED)


def is_of_checkpoints(name: str) -> bool:
    """Is a file part of a run's checkpoints, or the record of them?"""
    return name.split("/")[0] in (CHECKPOINTS, RECORD)


def is_whole(name: str, names: Iterable[str]) -> bool:
    """Is an object not a part of a checkpoint that a kill left half written or half removed?

    Checkpoints of older code have neither a seal nor a sign that they are changing.

    Args:
      name: of the object.
      names: the names of all.

    >>> is_whole("checkpoints/5/data", ["checkpoints/5/changing", "checkpoints/5/data"])
    False
    """
    sign = _sign(name)
    if name == sign:
        return not sign
    return not sign or sign not in names or f"{sign.rpartition('/')[0]}/{SEAL}" in names


def signs_of(names: Iterable[str]) -> set[str]:
    """Returns the signs of the checkpoints that a change of these files makes or removes.

    >>> signs_of(["checkpoints/5/data", "checkpoints/5/digests.json", "metrics.jsonl"])
    {'checkpoints/5/changing'}
    """
    decisive = (SEAL, CHANGING)  # the second is left by a process that was killed
    return {_sign(name) for name in names if name.rpartition("/")[2] in decisive} - {""}


def by_rank(names: Iterable[str]) -> list[list[str]]:
    """Groups names by the order in which they are written; removal is in the reverse order.

    >>> [rank for rank in by_rank(["checkpoints.json", "a", "plots/"]) if rank]
    [['plots/'], ['a'], ['checkpoints.json']]
    """
    ranks: list[list[str]] = [[] for _ in range(len(LAST) + 2)]
    for name in sorted(names):
        last = name.rpartition("/")[2]
        ranks[0 if is_folder(name) else LAST.index(last) + 2 if last in LAST else 1].append(name)
    return ranks


def _sign(name: str) -> str:
    """Returns the sign of the checkpoint that a file is in; "" if it is in none."""
    parts = name.split("/")
    if parts[0] != CHECKPOINTS or len(parts) < 3:
        return ""
    return f"{CHECKPOINTS}/{parts[1]}/{CHANGING}"
