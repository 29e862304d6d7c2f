"""The machine that would train: its memory, what of it is free, and whether it computes in bfloat16."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import psutil

from annotation.translation import ngettext
from rlhf.jobs.devices import query_graphics

GB = 1e9
MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Machine:
    """What a training process can use: a GPU's memory, or this machine's."""

    name: str
    """Of its GPU; empty for processors, which have none."""
    total: int
    """Bytes of memory."""
    free: int
    """Bytes that nobody uses now."""
    bf16: bool
    devices: int = 1
    gpu: bool = False
    processors: int = 1

    @property
    def called(self) -> str:
        count = ngettext("{cpu_count} processor", "{cpu_count} processors", self.processors)
        return self.name or count.format(cpu_count=self.processors)


def this_machine() -> Machine:
    """The GPU that trains if there is one, else the processor and what this program may have of the memory."""
    graphics = query_graphics()
    if graphics:
        name, total, free, capability = (field.strip() for field in graphics[0].split(","))
        bf16 = float(capability) >= 8.0
        return Machine(
            name=name,
            total=int(total) * MEGABYTE,
            free=int(free) * MEGABYTE,
            bf16=bf16,
            devices=len(graphics),
            gpu=True,
        )
    total = min(psutil.virtual_memory().total, container_limit()[0])
    return Machine("", total, free_memory(), processor_has_bf16(), processors=psutil.cpu_count() or 1)


def free_memory() -> int:
    """Bytes of this machine's memory, or of its container's, that nobody uses now."""
    limit, used = container_limit()
    return int(min(psutil.virtual_memory().available, max(0, limit - used)))


def container_limit() -> tuple[int, int]:
    """(limit, in use) of the memory of the container that this runs in; no limit outside of one."""
    group = Path("/sys/fs/cgroup")
    limit, used = group / "memory.max", group / "memory.current"
    if not limit.is_file() or not used.is_file() or limit.read_text().strip() == "max":
        return 1 << 62, 0
    return int(limit.read_text()), int(used.read_text()) - page_cache(group / "memory.stat")


def page_cache(statistics: Path) -> int:
    """Bytes of a container's use that are copies of files, which make room when it is wanted."""
    lines = dict(line.split() for line in statistics.read_text().splitlines()) if statistics.is_file() else {}
    return sum(int(lines.get(name, 0)) for name in ("active_file", "inactive_file"))


@lru_cache(maxsize=1)
def processor_has_bf16() -> bool:
    """Whether the processor multiplies in bfloat16, as `base_weights.compute_dtype` asks torch."""
    information = Path("/proc/cpuinfo")
    if platform.system() != "Linux" or not information.is_file():
        return False
    flags = next((line for line in information.read_text().splitlines() if line.startswith("flags")), "").split()
    return "avx512_bf16" in flags or "amx_tile" in flags
