#!/usr/bin/env python3
"""scripts/sanitize_kernels with a program, a cuobjdump and a compute-sanitizer that print what the real ones do."""
import os
import subprocess
import sys
import tempfile
import textwrap

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NAMES = ("good", "racy", "wild", "stray", "never", "slow", "split", "unseen", "newer", "crashed")
GOOD, RACY, WILD, STRAY, NEVER, SLOW, SPLIT, UNSEEN, NEWER, CRASHED = (f"_ZN3dm24cuda{len(n)}{n}Ev" for n in NAMES)
UNSEEN = UNSEEN.replace("cuda", "cuda12_GLOBAL__N_1")  # in an unnamed namespace, as kernels of tests are
CASES = {"sound": {GOOD: 3}, "[a, b] races": {RACY: 40, GOOD: 1}, "writes too far": {WILD: 1}, "reads what nobody wrote": {STRAY: 2},
         "takes for ever": {SLOW: 1}, "splits a warp group": {SPLIT: 1}, "has no memory left": {UNSEEN: 1}, "is told in new words": {NEWER: 1},
         "dies": {CRASHED: 1}}
LONG = {"takes long [long]": {NEVER: 5}}

# A doctest program: lists its cases, and says which kernels it launched.
PROGRAM = """
    import os, re, sys
    cases, long = {cases!r}, {long!r}
    if "--test-case-exclude=*[long]*" not in sys.argv:
        cases = long if "--test-case=*[long]*" in sys.argv else {{**cases, **long}}
    with open({journal!r}, "a") as out:
        out.write("program\\n")
    chosen = [a.split("=", 1)[1] for a in sys.argv if a.startswith("--test-case=")]
    if "--list-test-cases" in sys.argv or "--count" in sys.argv:
        print("[doctest] listing all test case names\\n" + "=" * 79 + "\\n" + "\\n".join(cases) + "\\n" + "=" * 79)
        print("[doctest] unskipped test cases passing the current filters: 9")
    else:
        pattern = re.escape(chosen[0]).replace("\\\\?", ".")
        case = [c for c in cases if re.fullmatch(pattern, c)][0]
        with open(os.environ["DM2_GPU_LAUNCHES"], "w") as out:
            out.writelines(f"{{kernel}} {{count}}\\n" for kernel, count in cases[case].items())
            out.write("_ZN6cublas6nvjet_Ev 1\\n")
"""
# Reports in compute-sanitizer's words, of 13.0 (2025.3) and of 13.5's manual (2026.4).
SANITIZER = """
    import os, sys, time
    if "--count" in sys.argv:
        print("========= COMPUTE-SANITIZER", flush=True)
        attempts = open({journal!r} + ".starts", "a+")
        attempts.write("x")
        if attempts.tell() >= {starts}:  # the attempts before are as beside other tools
            os.execv(sys.argv[-2], sys.argv[-2:])
        print("========= Target application terminated before first instrumented API call\\n========= Error: couldn't find exit code.")
        sys.exit()
    with open({journal!r}, "a") as out:
        out.write("tool\\n")
    tool = sys.argv[sys.argv.index("--tool") + 1]
    case = sys.argv[-1].split("=", 1)[1]
    print("of the program: Invalid argument at {good}+0x1 \\n========= Invalid argument at {good}+0x1 ")
    log = open(sys.argv[sys.argv.index("--log-file") + 1], "w")
    def say(text):
        print(text, file=log, flush=True)
    say("========= COMPUTE-SANITIZER")
    errors = 0
    if tool == "racecheck":
        checked = [w[4:] for w in sys.argv if w.startswith("kne=")]
        assert checked and sys.argv[sys.argv.index("--launch-count") + 1] == str((3 if "long" in case else 16) * len(checked)), sys.argv
    if tool == "racecheck" and "races" in case:
        say("========= Error: Race reported between Write access at {racy}+0x90 in a.cuh:41\\n"
            "=========     and Read access at {racy}+0x100 in a.cuh:51 [508 hazards]\\n=========\\n"
            "========= Error: Race reported between Write access at nvjet_hsh_64x8+0x90\\n"
            "=========     and Read access at nvjet_hsh_64x8+0x100 [4 hazards]\\n=========")
        errors = 2
    if tool == "memcheck" and "far" in case:
        say("========= Invalid __global__ write of size 4 bytes\\n=========     at _ZN3dm24cuda6helperEv+0x50 in b.cuh:7\\n"
            "=========     by thread (0,0,0) in block (0,0,0)\\n=========     Address 0x7 is misaligned\\n"
            "=========         Device Frame: {wild}+0x30 in b.cuh:44\\n"
            "=========     Saved host backtrace up to driver entry point at kernel launch time\\n"
            "=========         Host Frame: main at {good} [0xacd4] in program\\n=========")
        errors = 1
    if tool == "initcheck" and "nobody" in case:
        say("========= Uninitialized __global__ memory read of size 4 bytes\\n=========     at {stray}+0x70 in c.cuh:1\\n"
            "=========     by thread (31,0,0) in block (1,0,0)\\n=========     Address 0x7f3c7ec000fc\\n=========")
        errors = 1
    if tool == "synccheck" and "warp group" in case:
        say("========= Warpgroup MMA sequence error detected. Mismatching predicates\\n=========     at {split}+0x11f0 in d.cuh:42\\n"
            "=========     by thread (32,0,0) in block (0,0,0)\\n=========")
        errors = 1
    if "memory" in case:
        say("========= Internal Sanitizer Error: The Sanitizer encountered an error while launching {unseen} and didn't track the launch. "
            "Errors might go undetected. (Unable to allocate enough memory to perform the requested operation)\\n=========")
    if "new words" in case:
        say("=========  What no version says so far\\n=========")
        errors = 1
    if "dies" in case:
        say("========= Error: process didn't terminate successfully\\n=========     The application may have hit an error\\n"
            "========= Target application returned an error")
    if "ever" in case:
        time.sleep(600)
    say(f"========= RACECHECK SUMMARY: {{errors}} hazards displayed ({{errors}} errors, 0 warnings)" if tool == "racecheck" else
        f"========= ERROR SUMMARY: {{errors}} errors")
    sys.exit(9 if errors else 0)
"""
SYMBOLS = """
    print("Fatbin elf code:\\n================\\narch = sm_90a\\n\\nsymbols:")
    for k in {kernels!r}:
        print(f"FUNC          GLOBAL  DEFAULT    ENTRY                                {{k}}")
    print("NOTYPE        WEAK    DEFAULT    RESERVED_SHARED                      __nv_reservedSMEM_offset_0_alias")
"""


def write_program(path, text):
    with open(path, "w", encoding="utf-8") as out:
        out.write(f"#!{sys.executable}\n" + textwrap.dedent(text))
    os.chmod(path, 0o755)


class Made:
    """The made programs, and what the script says of them."""

    def __init__(self, folder, starts=2):
        self.folder, self.journal = folder, os.path.join(folder, "journal")
        self.program, self.sanitizer, self.shim = (os.path.join(folder, n) for n in ("dm2_cuda_tests", "compute-sanitizer", "shim.so"))
        kernels = [GOOD, RACY, WILD, STRAY, NEVER, SLOW, SPLIT, UNSEEN, NEWER, CRASHED]
        write_program(self.program, PROGRAM.format(cases=CASES, long=LONG, journal=self.journal))
        write_program(self.sanitizer, SANITIZER.format(good=GOOD, racy=RACY, wild=WILD, stray=STRAY, split=SPLIT, unseen=UNSEEN,
                                                       journal=self.journal, starts=starts))
        write_program(os.path.join(folder, "cuobjdump"), SYMBOLS.format(kernels=kernels))
        with open(self.shim, "w", encoding="utf-8"):
            pass  # the program writes its launches itself

    def run(self, *words):
        with open(self.journal, "w", encoding="utf-8"):
            pass
        out = subprocess.run([os.path.join(ROOT, "scripts/sanitize_kernels"), self.program, "--shim", self.shim, "--sanitizer",
                              self.sanitizer, "--patience", "5", "--budget", "60", "--jobs", "2", *words], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True, env={**os.environ, "PATH": self.folder + ":" + os.environ["PATH"]},
                             timeout=300, check=False)
        with open(self.journal, encoding="utf-8") as file:
            return out, file.read().split()


def rows_of(out):
    return {line.split("`")[1].removesuffix("()"): line.split("` | ")[1].removesuffix(" |") for line in out.stdout.splitlines()
            if line.startswith("| `") and not line.split("` | ")[1][0].isdigit()}


def verdicts_of_every_kernel(made):
    """The first call: what the table and the lines below it say."""
    out, _ = made.run("--state", os.path.join(made.folder, "state"))
    every = "{0} | {0} | {0} | {0}".format
    want = {"good": every("clean"), "racy": "clean | FINDING | clean | clean", "wild": "FINDING | clean | clean | clean",
            "stray": "clean | clean | FINDING | clean", "never": every("not run"), "slow": every("no verdict"),
            "split": "clean | clean | clean | FINDING", "(anonymous namespace)::unseen": every("no verdict"), "newer": every("no verdict"),
            "crashed": every("no verdict")}
    rows = rows_of(out)
    wrong = [f"{kernel}: {rows.get(kernel)}, not {verdicts}" for kernel, verdicts in want.items() if rows.get(kernel) != verdicts]
    if out.returncode != 1:
        wrong.append(f"exit code {out.returncode}")
    for line in ("| FINDING of 10 | 1 | 1 | 1 | 1 |", "| `good` | 1 | 1 | 1 | 1 | 1 |", "| `racy` | 1 | 1 | 0 | 1 | 1 |", "| `unseen` | 1 | 0 | 0 | 0 | 0 |",
                 "| with a clean one of 10 | | 4 | 4 | 4 | 4 |", "| not run of 10 | 1 | 1 | 1 | 1 |",
                 "beside dm2's kernels: racecheck, nvjet_hsh_64x8, in 1 runs", "FINDING  memcheck, wild",
                 "no verdict: memcheck, in 1 runs: 1 errors are counted, 0 reports were understood", "the run was broken off",
                 "Errors might go undetected", "process didn't terminate successfully"):
        if line not in out.stdout:
            wrong.append(f"no line '{line}'")
    return out, wrong


def later_call_asks_what_is_left(made):
    """With --short, four kernels have no verdict of four tools; no case is run alone again, to list its launches."""
    out, ran = made.run("--state", os.path.join(made.folder, "state"), "--short")
    wrong = [] if ran.count("tool") == 16 else [f"{ran.count('tool')} runs of a tool, not 16"]
    if ran.count("program") != 2:  # its list of cases, and whether the tool starts it
        wrong.append(f"{ran.count('program')} runs of the program, not 2")
    if rows_of(out).get("wild") != "FINDING | clean | clean | clean" or out.returncode != 1:
        wrong.append(f"a finding is forgotten: {rows_of(out).get('wild')}, {out.returncode}")
    return out, wrong


def long_cases_are_asked_too(made):
    """What only a long case launches has a verdict then, over as many launches as were asked for."""
    out, _ = made.run("--state", os.path.join(made.folder, "state"), "--short", "--long", "--launches", "3", "--cases", "*[long]*")
    verdicts = rows_of(out).get("never")
    return out, [] if verdicts == "clean | clean | clean | clean" else [f"a long case's kernel: {verdicts}"]


def tool_that_starts_nothing_is_told(folder):
    out, _ = Made(folder, starts=4).run()
    told = "does not start the program" in out.stderr and "couldn't find exit code" in out.stderr
    return out, [] if told and out.returncode == 2 else [f"a tool that starts nothing: exit code {out.returncode}"]


def main():
    count = 0
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
        made = Made(folder)
        for test, argument in ((verdicts_of_every_kernel, made), (later_call_asks_what_is_left, made),
                               (long_cases_are_asked_too, made), (tool_that_starts_nothing_is_told, other)):
            out, wrong = test(argument)
            if wrong:
                print(out.stdout + out.stderr + "\n".join(wrong))
            count += len(wrong)
    print(f"10 kernels, {count} wrong")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
