"""The program of docs/python.md runs, as it stands there, and the package tells its types."""

import re
import shutil

import dm2
from conftest import GOLDEN, ROOT, run_python


def test_the_pages_program_runs(shapes, tmp_path):
    (program,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "python.md").read_text(), re.M | re.S)
    shutil.copy(ROOT / "examples" / "weights" / "quick.safetensors", tmp_path / "model.safetensors")
    shutil.copy(GOLDEN / "images" / "photo.jpg", tmp_path)
    (tmp_path / "pictures").symlink_to(shapes)
    done = run_python("import os, sys\nos.chdir(sys.argv[1])\n" + program, tmp_path, PYTHONUNBUFFERED="")
    assert done.returncode == 0, done.stderr
    first, *_, last = done.stdout.strip().splitlines()
    assert re.fullmatch(r" *\d+\.\d%  \S.*", first)
    assert last.startswith("{") and last.endswith("best.safetensors")  # Python's, behind the lines of the training
    assert (tmp_path / "copy.safetensors").exists()


def test_everything_public_says_what_it_is():
    for owner in (dm2, dm2.data, dm2.Model, dm2.TrainingResult):
        names = getattr(owner, "__all__", None) or [name for name in vars(owner) if not name.startswith("_")]
        for name in names:
            thing = getattr(owner, name)
            if callable(thing) and getattr(thing, "__module__", "").startswith("dm2"):
                assert thing.__doc__, f"{owner.__name__}.{name}"


def test_the_package_is_typed_and_holds_its_headers():
    from importlib import resources

    package = resources.files("dm2")
    assert (package / "py.typed").is_file() and (package / "_dm2.pyi").is_file()
    assert (package / "include" / "dm2" / "demansia.hpp").is_file()
