"""What this process may use of the machine: cores by affinity and by the quota of its container, and what its CPU can do."""

import os
from pathlib import Path

# Turns of a waiting OpenMP thread before it sleeps. 120 steps of Beauty on 2 cores, alone and two at once: 8.2 and 67 s as libgomp has it, 9.1
# and 13.6 s with 1,000, 10.4 and 12.8 s where threads sleep at once.
SPINS = "1000"


def cores() -> int:
    """Cores that this process may use, at least 1: the fewest of its affinity and the CPU quota of its control group (v2 or v1)."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([there, *(round(quota) for quota in _quotas())]))


def threads() -> dict[str, str]:
    """Environment variables by which a stage takes the cores that it may use, and no more: a thread that waits soon sleeps, since one that
    spins takes the core of another process.
    """
    count = str(cores())
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"), count)
    return counts | {"GOMP_SPINCOUNT": SPINS}


def multiplies_bf16(told: Path = Path("/proc/cpuinfo")) -> bool:
    """Has this CPU instructions for products of bf16 matrices (AVX512-BF16 or AMX)? False where nothing tells."""
    try:
        return bool({"avx512_bf16", "amx_bf16"} & set(told.read_text().split()))
    except OSError:
        return False


def _quotas(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[float]:
    """Cores that each control group above this process allows."""
    found = []
    try:
        names = [line.split(":", 2)[2] for line in own.read_text().splitlines()]
    except OSError:
        return found
    for name in names:
        for folder in (root / name.strip("/"), *(root / name.strip("/")).parents):
            if root not in (folder, *folder.parents):
                break
            found += _quota(folder)
        found += _quota(root / "cpu")
    return found


def _quota(folder: Path) -> list[float]:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return [] if quota == "max" else [int(quota) / int(period)]
    except (OSError, ValueError):
        pass
    try:
        quota, period = (int((folder / f"cpu.cfs_{n}_us").read_text()) for n in ("quota", "period"))
        return [quota / period] if quota > 0 else []
    except (OSError, ValueError):
        return []
