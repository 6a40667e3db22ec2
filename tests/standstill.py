"""Run tests while one of their processes after another stands still for seconds, as on a machine that is short of time.

    python -m tests.standstill -n 3 -m "not long"

takes what pytest takes, and ends as pytest does. What fails here and nowhere else relies on a moment that can be missed, or
measures the machine.
"""

from __future__ import annotations

import math
import random
import subprocess
import sys
import time
from contextlib import suppress
from typing import Final

import psutil

STANDS_SECONDS: Final = (0.05, 4.0)
"""How long a process stands still, from and to; as often for a short time, which can be done more often, as for a long."""

GOES_SECONDS: Final = 0.5
"""How long all of them go on in between, on average."""


def main() -> int:
    """Run pytest, and return its exit code."""
    run = subprocess.Popen([sys.executable, "-m", "pytest", *sys.argv[1:]])
    family, times = psutil.Process(run.pid), 0
    with suppress(KeyboardInterrupt):  # pytest hears it too
        while run.poll() is None:
            time.sleep(random.expovariate(1 / GOES_SECONDS))
            with suppress(psutil.NoSuchProcess):  # processes end, and so does the last
                times += stand_still(family.children(recursive=True))
    code = run.wait()
    print(f"{times:,} times a process stood still")
    return code


def stand_still(family: list[psutil.Process]) -> bool:
    """Have one of these stand still for a while, of each program as often. Answers whether there was any."""
    names = {process: process.name() for process in family if process.is_running()}
    if not names:
        return False
    name = random.choice(sorted(set(names.values())))
    chosen = random.choice([process for process in names if names[process] == name])
    chosen.suspend()
    try:
        time.sleep(math.exp(random.uniform(*map(math.log, STANDS_SECONDS))))
    finally:
        with suppress(psutil.NoSuchProcess):  # it was killed meanwhile, which takes effect at once
            chosen.resume()
    return True


if __name__ == "__main__":
    sys.exit(main())
