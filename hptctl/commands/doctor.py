"""`hptctl doctor`"""

from __future__ import annotations

from hptctl import options
from hptctl.format import size

PACKAGES = ("torch", "torchvision", "accelerate", "mlflow", "optuna", "pandas", "typer", "numpy", "pillow")
ENOUGH = 10**9
"""Free bytes of a disk that a run needs at least."""


def doctor(as_json: options.Json = False) -> None:
    """Check this machine: versions, devices, tracking store, disk, cache. Exit code 1 when something is wrong.

    Example:

        hptctl doctor
    """
    import os
    import platform
    import shutil
    import sys
    from importlib.metadata import version
    from pathlib import Path

    import torch

    from hpt import cores
    from hpt.errors import HptError
    from hpt.user_folders import cache_folder
    from hptctl import __version__, console, tracking

    checks: list[tuple[str, bool, str]] = [
        ("hptctl", True, f"{__version__} on Python {platform.python_version()}"),
        ("packages", True, ", ".join(f"{name} {version(name)}" for name in PACKAGES)),
    ]
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    apple = ["Apple GPU"] if torch.backends.mps.is_available() else []
    usable = f"{cores.usable()} of " if cores.usable() < cores.installed() else ""
    checks.append(("devices", True, ", ".join([*gpus, *apple, f"{usable}{cores.installed()} CPU cores"])))
    try:
        found = tracking.check_store()
        checks.append(("tracking", True, f"{tracking.uri()} ({found})"))
    except HptError as error:
        checks.append(("tracking", False, str(error)))
    for what, folder in (("working folder", Path.cwd()), ("cache", cache_folder())):
        existing = next(p for p in (folder, *folder.parents) if p.exists())
        writable = os.access(existing, os.W_OK)
        free = shutil.disk_usage(existing).free
        fine = writable and free > ENOUGH
        text = f"{folder}, {size(free)} free" + ("" if writable else ", cannot be written")
        checks.append((what, fine, text))
    if as_json:
        console.print_json([{"check": name, "ok": fine, "found": text} for name, fine, text in checks])
    else:
        console.table("", ("", "", ""), [("ok" if fine else "WRONG", name, text) for name, fine, text in checks])
    if not all(fine for _, fine, _ in checks):
        sys.exit(1)
