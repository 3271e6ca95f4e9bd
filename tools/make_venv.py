"""Make the virtual environment that `make run` and `make test` use, and put treadle and a fitting torch into it.

    python tools/make_venv.py .venv test,models

Which torch: one that is in the environment already stays. A CUDA or ROCm build that the calling Python can import stays
too, and the environment is made to see it. Otherwise one is installed: a build for the GPU where there is one, else the
CPU build of the version that treadle is developed with.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
CPU_TORCH = "2.13.0"
BUILD_TOOLS = ("setuptools>=77", "wheel>=0.43")
# Prints "VERSION KIND", where KIND is gpu or cpu; prints nothing where torch cannot be imported.
ASK_TORCH = """
try:
    import torch
    print(torch.__version__, "gpu" if torch.version.cuda or torch.version.hip else "cpu")
except Exception:
    pass
"""


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit("usage: make_venv.py FOLDER EXTRAS    (such as: make_venv.py .venv test,models)")
    folder, extras = Path(sys.argv[1]), sys.argv[2]
    python = folder / "bin" / "python"
    if not python.exists():
        make_environment(folder)
    pip = (python, "-m", "pip", "install", "--disable-pip-version-check")
    if not ask_torch(python):
        install_torch(pip)
    run(*pip, *BUILD_TOOLS)
    constraints = folder / "constraints.txt"
    version = ask_torch(python).partition(" ")[0]
    constraints.write_text(f"torch=={version}\n", encoding="utf-8")  # torch stays, or pip says what forbids it
    run(*pip, "--no-build-isolation", "--constraint", constraints, "--editable", f"{ROOT}[{extras}]")


def make_environment(folder: Path) -> None:
    """Make the environment; it sees the packages of the calling Python where that has a torch for the GPU."""
    outer = Path(sys.executable)
    if not ask_torch(outer).endswith(" gpu"):
        run(outer, "-m", "venv", folder)
        return
    run(outer, "-m", "venv", "--system-site-packages", folder)
    if sys.prefix != sys.base_prefix:  # called from an environment: the option shows the Python under it, not it
        [site] = folder.glob("lib/python*/site-packages")
        (site / "outer.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")


def ask_torch(python: Path) -> str:
    """Return "VERSION gpu" or "VERSION cpu" of the torch that `python` can import, or ""."""
    done = subprocess.run([python, "-c", ASK_TORCH], stdout=subprocess.PIPE, text=True, check=False)
    return done.stdout.strip()


def install_torch(pip: tuple[str | Path, ...]) -> None:
    if sees_gpu():
        [wanted] = [line for line in read_project()["dependencies"] if line.startswith("torch")]
        run(*pip, wanted)
        return
    # The build marked +cpu is a tenth of the size, but not every package index has it under this name.
    if run(*pip, f"torch=={CPU_TORCH}+cpu", required=False):
        return
    run(*pip, f"torch=={CPU_TORCH}")


def sees_gpu() -> bool:
    """Whether the driver of an NVIDIA or AMD GPU lists a device."""
    for tool in (["nvidia-smi", "-L"], ["rocminfo"]):
        if shutil.which(tool[0]) and subprocess.run(tool, capture_output=True, check=False).returncode == 0:
            return True
    return False


def read_project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def run(*command: str | Path, required: bool = True) -> bool:
    """Show a command and run it. Ends this program where a required one fails."""
    words = [os.fspath(word) for word in command]
    print("$", " ".join(words), flush=True)
    done = subprocess.run(words, check=False, stderr=None if required else subprocess.DEVNULL)
    if required and done.returncode:
        raise SystemExit(f"make_venv: the command above failed with status {done.returncode}")
    return done.returncode == 0


if __name__ == "__main__":
    main()
