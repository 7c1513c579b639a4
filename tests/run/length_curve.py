"""Whether a queue's length costs speed: cost per message of publishing and draining at each length, and the slope of that.

A step puts in, or takes out, the same number of messages at another length. For each pass a line is fitted through the costs of its steps
(least squares); its rise from the shortest to the longest length, as a share of the mean cost, is that pass's slope. Passes are independent of
each other, so their slopes give a mean and an interval of 95 % (Student's t). A cost that length brings shows as an interval off zero.
Within a pass length goes with time: what the first steps of a pass cost more, for whatever reason, shows as a slope too.
"""

import math
import statistics
from pathlib import Path

#: Student's t for 95 %, two-sided, by degrees of freedom; for more than nine that of nine, which is a little wide.
T95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}

COLOURS = ("#1663a8", "#b5432a")


def cpu_seconds(pid):
    """Processor time of a process's living threads, from the scheduler's own books (nanoseconds, where `stat` has ticks)."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            pass  # a thread that has ended meanwhile
    return total / 1e9


def rise(points):
    """How much the line through (length, cost) rises over the lengths, as a share of the mean cost."""
    xs, ys = zip(*points)
    x, y = statistics.fmean(xs), statistics.fmean(ys)
    slope = sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a in xs)
    return slope * (max(xs) - min(xs)) / y


def interval(values):
    """Mean and half the width of its 95 % interval; infinite for a single value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.inf
    return mean, T95.get(len(values) - 1, T95[9]) * statistics.stdev(values) / math.sqrt(len(values))


def report(passes):
    """Lines of Markdown: medians by length, then the slopes. `passes` holds for each pass {figure: [(length, µs a message)]}."""
    figures = list(passes[0])
    lengths = [length for length, _ in passes[0][figures[0]]]
    lines = ["| length | " + " | ".join(f"{figure}, µs" for figure in figures) + " |", "|---" * (len(figures) + 1) + "|"]
    for k, length in enumerate(lengths):
        medians = [statistics.median(one[figure][k][1] for one in passes) for figure in figures]
        lines.append(f"| {length:,} | " + " | ".join(f"{median:.3f}" for median in medians) + " |")
    lines.append("")
    for figure in figures:
        mean, half = interval([rise(one[figure]) for one in passes])
        verdict = "no slope seen" if abs(mean) <= half else "RISES" if mean > 0 else "falls"
        lines.append(
            f"{figure}: from {lengths[0]:,} to {lengths[-1]:,} messages {mean * 100:+.0f} % "
            f"(95 %: {(mean - half) * 100:+.0f} to {(mean + half) * 100:+.0f}, {len(passes)} passes): {verdict}"
        )
    return lines


def svg(passes, title):
    """Each pass's steps as dots, their medians as a line; processor time left, elapsed time right."""
    width, height, left, top, bottom = 920, 330, 60, 50, 280
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">']
    out.append(f'<rect width="{width}" height="{height}" fill="white"/><text x="{left}" y="16" font-size="14">{title}</text>')
    kinds = [[figure for figure in passes[0] if figure.endswith(kind)] for kind in ("processor", "elapsed")]
    for panel, figures in enumerate(kinds):
        x0, wide = left + panel * (width // 2), width // 2 - left - 20
        points = [point for one in passes for figure in figures for point in one[figure]]
        longest, most = max(length for length, _ in points), max(cost for _, cost in points) * 1.05
        x = lambda length: x0 + length / longest * wide
        y = lambda cost: bottom - cost / most * (bottom - top)
        for k in range(6):
            out.append(f'<line x1="{x0}" x2="{x0 + wide}" y1="{y(most * k / 5):.1f}" y2="{y(most * k / 5):.1f}" stroke="#ddd"/>')
            out.append(f'<text x="{x0 - 6}" y="{y(most * k / 5) + 4:.1f}" text-anchor="end">{most * k / 5:.2g}</text>')
            out.append(f'<text x="{x(longest * k / 5):.1f}" y="{bottom + 16}" text-anchor="middle">{longest * k / 5 / 1e6:g} M</text>')
        out.append(f'<text x="{x0 + wide / 2}" y="{bottom + 36}" text-anchor="middle">messages waiting</text>')
        for colour, figure, k in zip(COLOURS, figures, range(2)):
            out.append(f'<text x="{x0 + 190 * k}" y="36" fill="{colour}">{figure}, µs a message</text>')
            for one in passes:
                for length, cost in one[figure]:
                    out.append(f'<circle cx="{x(length):.1f}" cy="{y(cost):.1f}" r="1.8" fill="{colour}" fill-opacity="0.45"/>')
            line = [
                (length, statistics.median(one[figure][k][1] for one in passes)) for k, (length, _) in enumerate(passes[0][figure])
            ]
            path = " ".join(f"{x(length):.1f},{y(cost):.1f}" for length, cost in line)
            out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.4"/>')
    return "\n".join(out) + "\n</svg>\n"
