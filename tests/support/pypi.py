"""Runs a check in a Python that has some packages from PyPI, installing them into a virtual environment where needed.

A check ends with 77 (ctest: SKIP_RETURN_CODE 77) where the packages can be neither imported nor installed, and says why.
"""
import os
import subprocess
import sys
from pathlib import Path


def skip(reason: str) -> None:
    print(f"skipped: {reason}")
    sys.exit(77)


def usable(python: str, imports: str) -> bool:
    """Whether that Python has what the check needs; asked of it, since a package may be found and still not load."""
    return subprocess.run([python, "-c", imports], capture_output=True).returncode == 0


def install(venv: Path, packages: list, imports: str) -> str:
    """Path of a Python that has the packages."""
    python = str(venv / "bin" / "python")
    if os.path.exists(python) and usable(python, imports):
        return python
    try:
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True, capture_output=True, timeout=120)
        pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--retries", "1"]
        subprocess.run(pip + packages, check=True, capture_output=True, timeout=400)
    except (OSError, subprocess.SubprocessError) as problem:
        output = getattr(problem, "stderr", None) or b""
        skip(f"{packages[0]} cannot be installed from PyPI: {problem}\n{output.decode(errors='replace')[-800:]}")
    if not usable(python, imports):
        skip(f"{packages[0]} was installed and cannot be imported")
    return python


def run(check, script: str, packages: list, imports: str) -> None:
    """Calls check(PROGRAM) for `script PROGRAM [VENV]`: in this Python, or in VENV's with the packages installed."""
    if usable(sys.executable, imports):
        check(sys.argv[1])
    elif len(sys.argv) > 2:
        python = install(Path(sys.argv[2]), packages, imports)
        sys.exit(subprocess.run([python, script, sys.argv[1]]).returncode)
    else:
        skip(f"this Python has no {packages[0]}, and no VENV to install it into was given")
