#!/usr/bin/env python3
"""Runs the scenarios against a broker and compares what came over the wire.

    run.py --broker URL                      run, print the transcripts
    run.py --broker URL --record             run, write golden/<area>.txt
    run.py --broker URL --compare            run, compare with golden/ as amended by differences.toml
    run.py --broker URL --against URL        run on both side by side and compare live, amended likewise

--only takes a shell pattern for names (or area/name), may be given more than once. --jobs scenarios run at a time.
--admin and --against-admin are the management URLs for the scenarios that need it (http://user:password@host:port);
without it those are skipped and counted. The last line is always `N passed, N failed`.
"""

import argparse
import concurrent.futures
import difflib
import fnmatch
import os
import pathlib
import sys
import traceback

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))

import amend  # noqa: E402
import cases  # noqa: E402
import client  # noqa: E402

SKIPPED = "= skipped: "


def transcript(case, url, admin):
    """Runs one scenario and returns its lines."""
    scenario = client.Scenario(case.name, url, admin)
    try:
        if "admin" in case.wants and not admin:
            return [SKIPPED + "needs --admin"]
        try:
            case.run(scenario)
        except client.Skip as reason:
            return [SKIPPED + str(reason)]
        except client.Stop:
            pass
        scenario.finish()
    except Exception as error:  # a broken scenario must not stop the others
        where = traceback.extract_tb(error.__traceback__)
        place = next((f"{pathlib.Path(frame.filename).name}:{frame.lineno}" for frame in reversed(where)
                      if "scenarios" in frame.filename), "?")
        scenario.write(f"! {type(error).__name__}: {error} ({place})")
    finally:
        try:
            scenario.clean()
        except (client.Stop, OSError) as error:
            scenario.lines.append(f"! cleaning up failed: {error!r}")
    return scenario.lines


def golden_files(directory):
    """Reads every golden transcript as {name: lines}."""
    out = {}
    for path in sorted(directory.glob("*.txt")):
        name = None
        for line in path.read_text().splitlines():
            if line.startswith("## "):
                name = line[3:]
                out[name] = []
            elif name and line and not line.startswith("#"):
                out[name].append(line)
    return out


def record(directory, found, results):
    """Writes the golden file of each area, keeping what was not run this time."""
    directory.mkdir(exist_ok=True)
    before = golden_files(directory)
    for area in sorted({case.area for case in found}):
        out = [f"# What RabbitMQ answered; recorded by run.py --record. One part per scenario of scenarios/{area}.py.", ""]
        for case in cases.load():
            if case.area != area:
                continue
            lines = results.get(case.name)
            if lines is None or lines[:1] and lines[0].startswith(SKIPPED):
                lines = before.get(case.name)
            if lines is not None:
                out += [f"## {case.name}", f"# {case.title}", *lines, ""]
        (directory / f"{area}.txt").write_text("\n".join(out))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broker", required=True, metavar="URL")
    parser.add_argument("--admin", metavar="URL")
    parser.add_argument("--against", metavar="URL")
    parser.add_argument("--against-admin", metavar="URL")
    parser.add_argument("--golden", type=pathlib.Path, default=HERE / "golden", metavar="DIR")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--unamended", action="store_true", help="ignore differences.toml: is this RabbitMQ 3.10?")
    parser.add_argument("--only", action="append", metavar="PATTERN")
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()

    found = cases.load()
    known = {case.name for case in found}
    if options.only:
        found = [case for case in found if any(
            fnmatch.fnmatch(case.name, pattern) or fnmatch.fnmatch(f"{case.area}/{case.name}", pattern)
            for pattern in options.only)]
    if options.list:
        for case in found:
            print(f"{case.area}/{case.name}: {case.title}")
        print(f"{len(found)} scenarios")
        return 0

    def run(case):
        ours = transcript(case, options.broker, options.admin)
        theirs = transcript(case, options.against, options.against_admin) if options.against else None
        return ours, theirs

    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        results = dict(zip((case.name for case in found), pool.map(run, found)))

    if options.record:
        record(options.golden, found, {name: ours for name, (ours, _) in results.items()})
    golden = golden_files(options.golden) if options.compare else {}
    table = amend.Differences(pathlib.Path("/dev/null") if options.unamended else HERE / "differences.toml")
    passed = failed = skipped = 0
    for name in table.unused(known):
        print(f"FAILED {name}: named in differences.toml but there is no such scenario")
        failed += 1
    for case in found:
        ours, theirs = results[case.name]
        if ours[:1] and ours[0].startswith(SKIPPED):
            print(f"skipped {case.area}/{case.name}: {ours[0][len(SKIPPED):]}")
            skipped += 1
            continue
        trouble = None
        if options.against or options.compare:
            expected = theirs if options.against else golden.get(case.name)
            if expected is None:
                expected, trouble = [], "no golden transcript"
            else:
                expected, trouble = table.apply(case.name, expected)
            diff = list(difflib.unified_diff(expected, ours, "expected", "received", lineterm="", n=3))
        else:
            diff = []
            if not options.record:
                print(f"## {case.area}/{case.name}: {case.title}", *ours, "", sep="\n")
            trouble = next((line for line in ours if line.startswith("!")), None)
        if diff or trouble:
            failed += 1
            print(f"FAILED {case.area}/{case.name}: {case.title}")
            if trouble:
                print(f"    {trouble}")
            for line in diff[2:]:
                print(f"    {line}")
        else:
            passed += 1
    if skipped:
        print(f"{skipped} skipped")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    sys.exit(main())
