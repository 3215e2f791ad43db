"""Revisions of this repository as folders, for scripts/compare_machine_code and scripts/compare_results."""
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def stop(message):
    print(f"{os.path.relpath(sys.argv[0])}: {message}", file=sys.stderr)
    sys.exit(2)


def output_of(*command, **options):
    """What a command prints; a failure ends the script."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode != 0:
        stop(f"{' '.join(command[:4])} ... failed:\n{done.stderr.strip()}")
    return done.stdout


def export(revision, work):
    """A folder in `work` with the revision's files; "." is the working tree."""
    os.makedirs(work, exist_ok=True)
    if revision == ".":
        # A commit without a branch, of the working tree as it is.
        index = os.path.join(work, "index")
        shutil.copy(output_of("git", "rev-parse", "--path-format=absolute", "--git-path", "index", cwd=ROOT).strip(), index)
        environment = {**os.environ, "GIT_INDEX_FILE": index}
        output_of("git", "add", "-A", cwd=ROOT, env=environment)
        tree = output_of("git", "write-tree", cwd=ROOT, env=environment).strip()
    else:
        tree = output_of("git", "rev-parse", "--verify", f"{revision}^{{tree}}", cwd=ROOT).strip()
    folder = os.path.join(work, tree[:12])
    if not os.path.isdir(folder):
        partial = f"{folder}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        os.makedirs(partial)
        archive = subprocess.Popen(["git", "archive", tree], cwd=ROOT, stdout=subprocess.PIPE)
        output_of("tar", "x", "-C", partial, stdin=archive.stdout)
        if archive.wait() != 0:
            stop(f"git archive {tree} failed")
        os.rename(partial, folder)
    return folder
