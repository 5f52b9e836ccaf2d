"""Named random streams: one user seed, one independent stream for each purpose.

A stream is named by what it is for, so adding a new random choice never shifts an old one, and a resumed run draws
exactly what the undisturbed run would have drawn.
"""

import hashlib


def stream_seed(seed: int, *names: str | int) -> int:
    """Derive the integer seed (63 bits) of the stream called `names` under the user's `seed`.

    Args:
        seed: the run's seed.
        names: the purpose, from general to particular, e.g. `("batches", task, epoch)`.

    Returns:
        An integer in [0, 2**63), the first 8 bytes of a SHA-256, equal on every machine and Python version.

    Example:
        >>> stream_seed(0, "batches", 1) == stream_seed(0, "batches", 1)
        True
        >>> stream_seed(0, "batches", 1) == stream_seed(0, "dropout", 1)
        False
    """
    text = "/".join(["ntkcl", str(int(seed)), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
