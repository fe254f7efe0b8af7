"""How much memory is free, and one sentence for work that needs more."""

import contextlib
import re
import sys
import warnings
from pathlib import Path
from typing import Any

CGROUP = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")

MIN_CHECKED_BYTES = 10**8


class NotEnoughMemory(MemoryError):
    """Work needs more memory than there is; known before it began, and with what to lower."""


# as PyTorch, its allocators, NumPy, C++, the system and its loader say it
_NO_MEMORY = re.compile(
    r"allocate memory|out of memory|unable to allocate|bad_alloc|failed to map segment", re.I
)
_WANTED = re.compile(r"allocate ([\d.]+) ?([KMGT]iB|bytes)", re.I)


def available_bytes(device: Any = None) -> int:
    """Return the memory that this process can still take, of a CUDA device or of the machine.

    On the machine this is what is free or only caches files, swap space included, within the
    limits of the process and of its container, whose other processes are not counted.
    """
    if device is not None and device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    import psutil  # takes a while, and few users of this module need it

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a container without /proc/vmstat
        free = [psutil.virtual_memory().available + psutil.swap_memory().free]
    used = psutil.Process().memory_info()
    for path in CGROUP:
        with contextlib.suppress(OSError, ValueError):  # absent, or the word `max`
            free.append(int(Path(path).read_text(encoding="ascii")) - used.rss)
    if sys.platform != "win32":
        import resource  # Unix only

        for limit, taken in ((resource.RLIMIT_AS, used.vms), (resource.RLIMIT_DATA, used.rss)):
            if (most := resource.getrlimit(limit)[0]) != resource.RLIM_INFINITY:
                free.append(most - taken)
    return max(0, min(free))


def require_memory(needed: int, what: str, advice: str, device: Any = None) -> None:
    """Raise NotEnoughMemory if `what` needs more than is available; `advice` says what to lower.

    Needs below MIN_CHECKED_BYTES are not checked.
    """
    if needed >= MIN_CHECKED_BYTES and needed > (available := available_bytes(device)):
        raise NotEnoughMemory(
            f"{what} needs at least {gigabytes(needed)} of memory, and {gigabytes(available)} are "
            f"available{f' on {device}' if device else ''}; {advice}"
        )


def out_of_memory(error: BaseException, advice: str) -> str | None:
    """Return a sentence if an error says that memory ran out; None for any other error."""
    if isinstance(error, NotEnoughMemory):
        return str(error)
    if not is_out_of_memory(error):
        return None
    found = _WANTED.search(str(error))
    wanted = f": {found[1]} {found[2]} more were needed" if found else ""
    with contextlib.suppress(ImportError, MemoryError, OSError):
        wanted += f" ({gigabytes(available_bytes())} are available on this machine)"
    return f"out of memory{wanted}; {advice}"


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error says so, or one that it was raised from or while handling."""
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, RuntimeError | OSError | ImportError):
        return False
    return bool(_NO_MEMORY.search(str(error))) or is_out_of_memory(
        error.__cause__ or error.__context__
    )


def gigabytes(num_bytes: int) -> str:
    """Return a number of bytes as a text, such as 1.5 GB."""
    if num_bytes >= 10**18:
        return "10**9 GB"
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 10**8 else f"{num_bytes / 1e6:,.1f} MB"
