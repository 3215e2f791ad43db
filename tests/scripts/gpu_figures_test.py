#!/usr/bin/env python3
"""scripts/gpu_figures with made programs: order, budget, what fails, hangs and is missing, and the summary."""
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SCRIPT = os.path.join(ROOT, "scripts/gpu_figures")

# A doctest program of 23 test cases, as version 2.4 prints: a range's sums are the whole program's.
TESTS = """
    import os, sys
    words = dict(w.split("=") for w in sys.argv[1:] if "=" in w)
    if "--count" in sys.argv:
        print("[doctest] unskipped test cases passing the current filters: 23")
        sys.exit()
    assert words["--duration"] == "true" and os.environ["OMP_NUM_THREADS"].isdigit()
    for case in range(int(words["--first"]), min(23, int(words["--last"])) + 1):
        if case == {dies}:
            sys.stdout.flush()
            os.kill(os.getpid(), 11)
        print(f"0.000{{case:03}} s: case {{case}} takes 3 s: no more")
    print("[doctest] test cases: 23 | 23 passed | 0 failed | 0 skipped")
"""
# A benchmark: tells when it began and ended.
BENCH = """
    import os, subprocess, sys, time
    def tell(what):
        with open({journal!r}, "a") as out:
            out.write(f"{{os.path.basename(sys.argv[0])}} {{what}} {{time.monotonic()}}\\n")
    tell("begins")
    print("| Tiny | 1.5 |", flush=True)
    {body}
    tell("ends")
"""
# Does not end, nor does what it starts: tr, which keeps its lines to itself as C programs do whose output is a file.
HANGS = ("child = subprocess.Popen('(echo first row; exec sleep 600) | tr r R', shell=True); tell('child=%d' % child.pid); "
         "time.sleep(600)")
NVIDIA_SMI = """
    import sys, time
    if "-lms" in sys.argv:
        for line in ("1980, 40, 300.5", "1700, 55, [N/A]", "1600, 61, 650.0", "1755, 60, 640.0"):
            print(line, flush=True)
        time.sleep(600)
    print("NVIDIA H200, 580.159.04")
"""


class Case:
    """A folder of made programs, and what became of them."""

    def __init__(self, bodies, dies=0):
        self.top = tempfile.TemporaryDirectory()
        self.folder, self.journal = os.path.join(self.top.name, "programs"), os.path.join(self.top.name, "journal")
        self.output = os.path.join(self.top.name, "output")
        for part in ("tests", "bench", "path"):
            os.makedirs(os.path.join(self.folder, part))
        self.write("path/nvidia-smi", NVIDIA_SMI)
        self.write("tests/dm2_cuda_tests", TESTS.format(dies=dies))
        for name, body in bodies.items():
            self.write(f"bench/dm2_cuda_{name}_bench", BENCH.format(journal=self.journal, body=body))

    def write(self, name, program):
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="utf-8") as out:
            out.write(f"#!{sys.executable}\n" + textwrap.dedent(program))
        os.chmod(path, 0o755)

    def command(self, *words):
        return [SCRIPT, "--programs", self.folder, "--output", self.output, "--jobs", "2", *words]

    def run(self, *words):
        environment = {**os.environ, "PATH": os.path.join(self.folder, "path") + ":" + os.environ["PATH"]}
        begin = time.monotonic()
        out = subprocess.run(self.command(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
                             timeout=240, check=False)
        self.seconds, self.code, self.out = time.monotonic() - begin, out.returncode, out.stdout
        return self

    def read(self, name):
        with open(os.path.join(self.output, name), encoding="utf-8") as file:
            return file.read()

    def rows(self):
        """The summary: exit code and note by program, in its order."""
        cells = [[c.strip() for c in line.split("|")[1:-1]] for line in self.read("summary.md").splitlines() if line.startswith("|")]
        return {c[0]: (c[2], c[3]) for c in cells[2:]}

    def told(self):
        if not os.path.exists(self.journal):
            return []
        with open(self.journal, encoding="utf-8") as file:
            return [line.split() for line in file]


wrong = []


def check(condition, what, case):
    if not condition:
        wrong.append(what)
        print(f"WRONG: {what}\n{case.out}\n{case.told()}")


def alive(number):
    try:
        with open(f"/proc/{number}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def failing_and_hanging_programs_stop_no_other():
    case = Case({"model": "time.sleep(0.3)", "mixer_core": "", "mixer_backward": "sys.exit(3)", "float": HANGS, "kernels": "time.sleep(0.3)"},
                dies=9).run("--limit", "12", "--budget", "120")
    rows = case.rows()
    check(list(rows) == ["tests", "mixer_core", "mixer_backward", "float", "mine", "scan", "decode", "lengths", "model", "training",
                         "kernels", "operations", "augment", "cliff"], "the rows are in the order of importance", case)
    codes = {name: row[0] for name, row in rows.items() if row[0] != "not run"}
    check(codes == {"tests": "-11", "mixer_core": "0", "mixer_backward": "3", "float": "broken off", "model": "0", "kernels": "0"},
          f"exit codes: {codes}", case)
    # Two processes, eleven ranges of two and one of one: that of 9 and 10 ends at its first.
    check(rows["tests"][1].startswith("21 of 23 test cases were run to their ends; see 9 to 10"), rows["tests"][1], case)
    check(rows["decode"] == ("not run", "dm2_cuda_decode_bench is not there"), str(rows["decode"]), case)
    check(case.code == 1, f"exit code {case.code} where programs failed", case)
    starts = [w[0].split("_")[2] for w in case.told() if w[1] == "begins"]
    check(starts == ["mixer", "mixer", "float", "model", "kernels"], f"started: {starts}", case)
    ends = {w[0]: float(w[2]) for w in case.told() if w[1] == "ends"}
    kernels = [float(w[2]) for w in case.told() if w[:2] == ["dm2_cuda_kernels_bench", "begins"]]
    check(kernels and ends["dm2_cuda_model_bench"] < kernels[0], "timed programs run one after another", case)
    child = [int(w[1].split("=")[1]) for w in case.told() if w[1].startswith("child=")]
    check(child and not alive(child[0]), "what a broken-off program started is ended", case)
    check("| Tiny | 1.5 |\nfiRst Row\n" in case.read("float.log"), "a broken-off program's rows are kept", case)
    check("median 1755 MHz, at most 1980 MHz, 61 C, 650 W" in case.read("summary.md"), "the clocks", case)
    check("NVIDIA H200, driver 580.159.04" in case.read("summary.md"), "the device", case)
    check("## kernels\n\n| Tiny | 1.5 |\n" in case.read("figures.md"), "figures.md has the tables", case)
    check(case.read("tests.log").count("==== test cases ") == 12, "tests.log has every range", case)


def budget_is_held():
    case = Case({"mixer_core": HANGS, "mixer_backward": HANGS, "float": HANGS, "decode": ""}).run("--limit", "3", "--budget", "8",
                                                                                                           "--without", "tests")
    rows = case.rows()
    check(case.seconds < 20, f"{case.seconds} s of 8", case)
    check([rows[n][0] for n in ("mixer_core", "mixer_backward", "decode")] == ["broken off", "broken off", "not run"], str(rows), case)
    check(rows["decode"][1] == "no time was left", str(rows["decode"]), case)
    check(case.code == 1, f"exit code {case.code}", case)
    case.run("--budget", "4", "--without", "tests")
    check(case.seconds < 20 and case.rows()["mixer_core"][0] == "broken off" and case.rows()["mixer_backward"][0] == "not run",
          f"{case.seconds} s of 4, {case.rows()}", case)


def exit_codes_tell_whole_from_partial():
    case = Case({"mixer_core": "", "float": ""}).run("--only", "float", "mixer_core", "tests")
    check(case.code == 0 and case.rows() == {"tests": ("0", "23 of 23 test cases were run to their ends"), "mixer_core": ("0", ""),
                                             "float": ("0", "")}, f"{case.code}: {case.rows()}", case)
    case.run("--without", "tests")
    check(case.code == 2 and "tests" not in case.rows(), f"exit code {case.code} where programs are missing", case)
    case.write("tests/dm2_cuda_tests", "print('[doctest] unskipped test cases passing the current filters: 0')")
    case.run("--only", "tests")
    check(case.code == 1, f"exit code {case.code} of a program without tests", case)
    case.write("tests/dm2_cuda_tests", TESTS.format(dies=0).replace("range(int(words[\"--first\"])", "range(2"))
    case.run("--only", "tests")
    check(case.code == 1, "test cases that ran twice or never are a failure", case)


def list_runs_nothing():
    case = Case({"mixer_core": "", "float": ""}).run("--list")
    check(case.code == 0 and not case.told() and not os.path.exists(case.output), "--list runs nothing", case)
    listed = re.findall(r"^\| (\w+) \| (\d+) \|", case.out, re.M)
    check(listed[:4] == [("tests", "300"), ("mixer_core", "60"), ("mixer_backward", "60"), ("float", "60")], str(listed), case)
    check("dm2_cuda_decode_bench (is not there)" in case.out, "--list names what is not there", case)


def ended_script_leaves_its_summary_and_no_process():
    case = Case({"mixer_core": "", "mixer_backward": HANGS, "float": ""})
    case.out = ""
    process = subprocess.Popen(case.command("--without", "tests"), stdout=subprocess.DEVNULL)
    for _ in range(300):
        if any(w[1].startswith("child=") for w in case.told()):
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    check(process.wait(30) == 143, f"exit code {process.returncode} after SIGTERM", case)
    rows = case.rows()
    check(rows["mixer_core"][0] == "0" and rows["float"] == ("not run", "the script was ended"), str(rows), case)
    child = [int(w[1].split("=")[1]) for w in case.told() if w[1].startswith("child=")]
    check(child and not alive(child[0]), "no process is left", case)


def main():
    tests = [failing_and_hanging_programs_stop_no_other, budget_is_held, exit_codes_tell_whole_from_partial, list_runs_nothing,
             ended_script_leaves_its_summary_and_no_process]
    for test in tests:
        test()
    print(f"{len(tests)} properties, {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
