"""What jobs may compute on here: the GPUs that the driver knows and that this process may use, or the processors."""

from __future__ import annotations

import os
import shutil
import subprocess

SMI = ("nvidia-smi", "--query-gpu=name,memory.total,memory.free,compute_cap", "--format=csv,noheader,nounits")
# A driver that nothing keeps loaded begins anew when it is asked, for seconds with each GPU; one may never answer.
SMI_SECONDS = 60.0
# The one device where there is no GPU: whoever trains there has all of the processors.
PROCESSORS = "processors"
VISIBLE = "CUDA_VISIBLE_DEVICES"


def devices_here() -> list[str]:
    """The GPUs that jobs may train on, as CUDA_VISIBLE_DEVICES names them; the processors where there is none."""
    known = [str(number) for number in range(len(query_graphics()))]
    allowed = os.environ.get(VISIBLE)
    if known and allowed is not None:
        known = [name.strip() for name in allowed.split(",") if name.strip() not in ("", "-1")]
    return known or [PROCESSORS]


def query_graphics() -> list[str]:
    """A line for each GPU that the driver knows; none where there is no driver, or it does not answer."""
    if shutil.which(SMI[0]) is None:
        return []
    try:
        done = subprocess.run(SMI, capture_output=True, text=True, timeout=SMI_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return []
    return [line for line in done.stdout.splitlines() if line.count(",") == 3] if done.returncode == 0 else []
