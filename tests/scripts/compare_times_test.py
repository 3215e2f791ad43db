#!/usr/bin/env python3
"""scripts/compare_times with made programs: turns, medians, ratios, and what fails or is in one build only."""
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# Times grow by 3 % with every run, whichever build's it is, as on a GPU that warms.
BENCH = """
    import os, sys, time
    with open({journal!r}, "a") as out:
        out.write("{build}\\n")
    with open({journal!r}) as file:
        warm = 1 + 0.03 * (len(file.readlines()) - 1)
    print("* device: made\\n* copy 4 TB/s\\n")
    print("| network | part | ms | pictures/s |\\n|---|---|---:|---:|")
    print(f"| Tiny, batch 256 | forward | {{10 * warm * {factor}:.6f}} | 1 |\\n| Tiny, batch 256 | backward | {{30 * warm:.6f}} | 7 |")
    print("| Tiny, batch 256 | device memory, MB | 8023 | |\\n| scan | nothing | nan | 3 |")
    print("\\nSmall, bf16\\n\\n| operation | times | us each |\\n|---|---:|---:|\\n| norm | 2 | 5.0 |")
    print(f"\\n| size | tokens | pictures/s | core us |\\n|---|---|---:|---:|\\n| 384 | 577 | {{1000 / warm / {factor}:.6f}} | 9 |")
    print("\\nTiny, bf16\\n\\n| operation | times | us each |\\n|---|---:|---:|\\n| norm | 2 | {norm} |")
    {body}
"""
wrong = []


def check(condition, what, out):
    if not condition:
        wrong.append(what)
        print(f"WRONG: {what}\n{out.stdout}{out.stderr}")


def compare(factor, norm="7.0", body="", words=()):
    """What the script says of two builds, the second `factor` slower in one row; and whose runs there were."""
    with tempfile.TemporaryDirectory() as top:
        journal = os.path.join(top, "journal")
        for build, by, n, more in (("old", 1, "7.0", ""), ("new", factor, norm, body)):
            os.makedirs(os.path.join(top, build, "bench"))
            path = os.path.join(top, build, "bench/dm2_cuda_training_bench")
            with open(path, "w", encoding="utf-8") as out:
                out.write(f"#!{sys.executable}\n" + textwrap.dedent(BENCH.format(journal=journal, build=build, factor=by, norm=n, body=more)))
            os.chmod(path, 0o755)
        out = subprocess.run([os.path.join(ROOT, "scripts/compare_times"), "--programs", os.path.join(top, "old"), os.path.join(top, "new"),
                              "--benches", "training", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120,
                             check=False)
        with open(journal, encoding="utf-8") as file:
            return out, file.read().split()


def rows_of(out):
    """Ratio, least and most by row."""
    return {m[1]: tuple(map(float, m.groups()[1:])) for m in
            re.finditer(r"^\| ([^|]+) \| [\d.e+]+ \| [\d.e+]+ \| ([\d.]+) \| ([\d.]+) to ([\d.]+) \|", out.stdout, re.M)}


def turns_make_up_for_a_device_that_warms():
    out, runs = compare(1.05, words=("--rounds", "4", "--within", "2"))
    check(runs == ["old", "new", "new", "old"] * 2, f"turns: {runs}", out)
    rows = rows_of(out)
    names = ["Tiny, batch 256, forward", "Tiny, batch 256, backward", "Tiny, batch 256, device memory, MB", "norm, 2", "384, 577",
             "Tiny, bf16: norm, 2"]
    check(list(rows) == names, f"rows: {list(rows)}", out)
    # Of four pairs two are 3 % of about 1.1 too high and two as much too low: their medians are the middle.
    check(abs(rows[names[0]][0] / 1.05 - 1) < 0.004, f"the slower row's ratio is {rows[names[0]]}, not 1.05", out)
    check(abs(rows["384, 577"][0] / 1.05 - 1) < 0.004, f"a rate's ratio is {rows['384, 577']}, not 1.05", out)
    check(abs(rows[names[1]][0] - 1) < 0.004 and rows[names[1]][1] < 0.98 and rows[names[1]][2] > 1.02, f"{rows[names[1]]}", out)
    check(rows[names[2]] == (1, 1, 1), "what does not change has the ratio 1", out)
    check(out.returncode == 1 and "training, Tiny, batch 256, forward: further from 1 than 2 %" in out.stdout, f"{out.returncode}", out)


def equal_builds_pass():
    out, _ = compare(1, words=("--rounds", "2", "--within", "1"))
    check(out.returncode == 0 and "6 rows compared, 0 problems" in out.stdout, f"exit code {out.returncode}", out)


def rows_of_one_build_and_failures_are_told():
    out, _ = compare(1, norm="nan", words=("--rounds", "2"))
    check(out.returncode == 1 and "Tiny, bf16: norm, 2: is not in every run" in out.stdout, f"exit code {out.returncode}", out)
    out, _ = compare(1, body="print('error: wrong logits'); sys.exit(1)", words=("--rounds", "2"))
    check(out.returncode == 2 and "training, new: ends with 1: error: wrong logits" in out.stdout, f"exit code {out.returncode}", out)
    begin = time.monotonic()
    out, runs = compare(1, body="time.sleep(100)", words=("--rounds", "9", "--limit", "4", "--budget", "10"))
    check(out.returncode == 2 and "training, new: was broken off" in out.stdout and time.monotonic() - begin < 80, "hangs", out)
    check(runs[:2] == ["old", "new"] and len(runs) < 18, f"{runs}", out)


def main():
    tests = [turns_make_up_for_a_device_that_warms, equal_builds_pass, rows_of_one_build_and_failures_are_told]
    for test in tests:
        test()
    print(f"{len(tests)} properties, {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
