#!/usr/bin/env python3
"""scripts/sanitize_kernels with a program, a cuobjdump and a compute-sanitizer that print what the real ones do."""
import os
import subprocess
import sys
import tempfile
import textwrap

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GOOD, RACY, WILD, STRAY, NEVER, SLOW = (f"_ZN3dm24cuda{len(n)}{n}Ev" for n in ("good", "racy", "wild", "stray", "never", "slow"))
CASES = {"sound": {GOOD: 3}, "[a, b] races": {RACY: 40, GOOD: 1}, "writes too far": {WILD: 1}, "reads what nobody wrote": {STRAY: 2},
         "takes for ever": {SLOW: 1}}

# A doctest program: lists its cases, and says which kernels it launched.
PROGRAM = """
    import os, re, sys
    cases = {cases!r}
    chosen = [a.split("=", 1)[1] for a in sys.argv if a.startswith("--test-case=")]
    if "--list-test-cases" in sys.argv:
        print("[doctest] listing all test case names\\n" + "=" * 79 + "\\n" + "\\n".join(cases) + "\\n" + "=" * 79)
        print("[doctest] unskipped test cases passing the current filters: 5")
    else:
        pattern = re.escape(chosen[0]).replace("\\\\?", ".")
        case = [c for c in cases if re.fullmatch(pattern, c)][0]
        with open(os.environ["DM2_GPU_LAUNCHES"], "w") as out:
            out.writelines(f"{{kernel}} {{count}}\\n" for kernel, count in cases[case].items())
            out.write("_ZN6cublas6nvjet_Ev 1\\n")
"""
# Reports in compute-sanitizer 13's words.
SANITIZER = """
    import sys, time
    tool = sys.argv[sys.argv.index("--tool") + 1]
    case = sys.argv[-1].split("=", 1)[1]
    print("========= COMPUTE-SANITIZER\\nof the program: Invalid argument at {good}+0x1 ")
    code = 0
    if tool == "racecheck":
        checked = [w[4:] for w in sys.argv if w.startswith("kne=")]
        assert checked and sys.argv[sys.argv.index("--launch-count") + 1] == str(16 * len(checked)), sys.argv
    if tool == "racecheck" and "races" in case:
        print("========= Error: Race reported between Write access at {racy}+0x90 in a.cuh:41\\n"
              "=========     and Read access at {racy}+0x100 in a.cuh:51 [508 hazards]\\n=========\\n"
              "========= Error: Race reported between Write access at nvjet_hsh_64x8+0x90\\n"
              "=========     and Read access at nvjet_hsh_64x8+0x100 [4 hazards]\\n=========")
        code = 9
    if tool == "memcheck" and "far" in case:
        print("========= Invalid __global__ write of size 4 bytes\\n=========     at _ZN3dm24cuda6helperEv+0x50 in b.cuh:7\\n"
              "=========     by thread (0,0,0) in block (0,0,0)\\n=========     Address 0x7 is misaligned\\n"
              "=========         Device Frame: {wild}+0x30 in b.cuh:44\\n"
              "=========     Saved host backtrace up to driver entry point at kernel launch time\\n"
              "=========         Host Frame: main at {good} [0xacd4] in program\\n=========")
        code = 9
    if tool == "initcheck" and "nobody" in case:
        print("========= Uninitialized __global__ memory read of size 4 bytes\\n=========     at {stray}+0x70 in c.cuh:1\\n"
              "=========     by thread (31,0,0) in block (1,0,0)\\n=========     Address 0x7f3c7ec000fc\\n=========")
        code = 9
    if "ever" in case:
        time.sleep(600)
    print("========= ERROR SUMMARY: " + ("1 error" if code else "0 errors"))
    sys.exit(code)
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


def main():
    with tempfile.TemporaryDirectory() as folder:
        program, sanitizer = os.path.join(folder, "dm2_cuda_tests"), os.path.join(folder, "compute-sanitizer")
        kernels = [GOOD, RACY, WILD, STRAY, NEVER, SLOW]
        write_program(program, PROGRAM.format(cases=CASES))
        write_program(sanitizer, SANITIZER.format(good=GOOD, racy=RACY, wild=WILD, stray=STRAY))
        write_program(os.path.join(folder, "cuobjdump"), SYMBOLS.format(kernels=kernels))
        shim = os.path.join(folder, "shim.so")
        with open(shim, "w", encoding="utf-8"):
            pass  # the program writes its launches itself
        out = subprocess.run([os.path.join(ROOT, "scripts/sanitize_kernels"), program, "--shim", shim, "--sanitizer", sanitizer,
                              "--patience", "3", "--budget", "60", "--jobs", "2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             env={**os.environ, "PATH": folder + ":" + os.environ["PATH"]}, timeout=300, check=False)
    want = {"good()": "clean | clean | clean | clean", "racy()": "clean | FINDING | clean | clean",
            "wild()": "FINDING | clean | clean | clean", "stray()": "clean | clean | FINDING | clean",
            "never()": "not run | not run | not run | not run", "slow()": "no verdict | no verdict | no verdict | no verdict"}
    wrong = []
    rows = {line.split("`")[1].removesuffix("()") + "()": line.split("` | ")[1].removesuffix(" |")
            for line in out.stdout.splitlines() if line.startswith("| `")}
    for kernel, verdicts in want.items():
        if rows.get(kernel) != verdicts:
            wrong.append(f"{kernel}: {rows.get(kernel)}, not {verdicts}")
    if out.returncode != 1:
        wrong.append(f"exit code {out.returncode}")
    for line in ("| FINDING of 6 | 1 | 1 | 1 | 0 |", "| not run of 6 | 1 | 1 | 1 | 1 |", "beside dm2's kernels: racecheck, nvjet_hsh_64x8, in 1 runs",
                 "FINDING  memcheck, wild"):
        if line not in out.stdout:
            wrong.append(f"no line '{line}'")
    if wrong:
        print(out.stdout + out.stderr + "\n".join(wrong))
    print(f"{len(want)} kernels, {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
