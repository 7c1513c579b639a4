"""Turns what RabbitMQ 3.10 answers into what we are expected to answer, as differences.toml says.

Our reference is RabbitMQ 4.3; the package at hand is 3.10. Single differences are listed scenario by scenario with their
reason; those that touch dozens of scenarios in the same way are rules here.
"""

import fnmatch
import re
import tomllib

_ENTRY = ["original-expiration", "count", "reason", "queue", "time", "exchange", "routing-keys"]


class _Shown:
    """Reads a table or array back from a transcript."""

    def __init__(self, text):
        self.text, self.at = text, 0

    def table(self):
        self.at += 1  # {
        pairs = []
        while self.text[self.at] != "}":
            end = self.text.index("=", self.at)
            key, self.at = self.text[self.at:end], end + 1
            pairs.append((key, self.value()))
            if self.text[self.at] == ",":
                self.at += 2
        self.at += 1
        return pairs

    def value(self):
        tag = self.text[self.at]
        self.at += 1
        if self.text[self.at] != " ":
            return tag, ""
        self.at += 1
        if tag == "F":
            return tag, self.table()
        if tag == "A":
            self.at += 1  # [
            items = []
            while self.text[self.at] != "]":
                items.append(self.value())
                if self.text[self.at] == ",":
                    self.at += 2
            self.at += 1
            return tag, items
        begin = self.at
        if self.text[self.at] == '"':
            self.at += 1
            while self.text[self.at] != '"':
                self.at += 2 if self.text[self.at] == "\\" else 1
            self.at += 1
        else:
            while self.text[self.at] not in ",]}":
                self.at += 1
        return tag, self.text[begin:self.at]


def _show(value):
    tag, data = value
    if tag == "F":
        return "F " + _table(data)
    if tag == "A":
        return "A [" + ", ".join(_show(item) for item in data) + "]"
    return f"{tag} {data}" if data else tag


def _table(pairs):
    return "{" + ", ".join(f"{key}={_show(item)}" for key, item in pairs) + "}"


def _history(lines):
    """x-death as RabbitMQ 4 writes it: entries in its order of fields, and x-last-death-* beside x-first-death-*."""
    out = []
    for line in lines:
        if line.startswith("      headers={") and "x-first-death-reason" in line and "x-last-death-reason" not in line:
            pairs = dict(_Shown(line[len("      headers="):]).table())
            deaths = pairs["x-death"][1]
            pairs["x-death"] = ("A", [(tag, sorted(entry, key=lambda pair: _ENTRY.index(pair[0]))) for tag, entry in deaths])
            newest = dict(deaths[0][1])
            for field in ("exchange", "queue", "reason"):
                pairs[f"x-last-death-{field}"] = newest[field]
            line = "      headers=" + _table(sorted(pairs.items()))
        out.append(line)
    return out


def _words(lines):
    """Refusals name the permission that is missing: `write access to …`, by the method that was refused."""
    needs = {(50, 10): "configure", (50, 40): "configure", (40, 10): "configure", (40, 20): "configure", (50, 30): "read",
             (60, 20): "read", (60, 70): "read", (60, 40): "write"}
    out = []
    for index, line in enumerate(lines):
        found = re.search(r"ACCESS_REFUSED - access to (queue|exchange|topic) .* class_id=(\d+) method_id=(\d+)", line)
        if found:
            kind, ids = found[1], (int(found[2]), int(found[3]))
            # The queue (or destination) of a binding needs write, its exchange (or source) read.
            need = needs.get(ids) or ("write" if kind == "queue" or ids[0] == 40 else "read")
            # A declare that names a dead-letter or alternate exchange also needs write on that and read on what is declared.
            before = lines[index - 1] if index else ""
            if need == "configure" and ("x-dead-letter-exchange=" in before or "alternate-exchange=" in before):
                need = "write" if kind == "exchange" else "read"
            line = line.replace("ACCESS_REFUSED - access to", f"ACCESS_REFUSED - {need} access to")
        out.append(line)
    return out


def _afresh(lines):
    """A history that a publisher brought along does not count: the last dead letter has one death, its own."""
    at = max(index for index, line in enumerate(lines) if line.startswith("      headers={"))
    pairs = dict(_Shown(lines[at][len("      headers="):]).table())
    newest = dict(pairs["x-death"][1][0][1])
    newest.update(count=("l", "1"), time=("T", "now"))
    pairs["x-death"] = ("A", [("F", sorted(newest.items(), key=lambda pair: _ENTRY.index(pair[0])))])
    for which in "first", "last":
        for field in ("exchange", "queue", "reason"):
            pairs[f"x-{which}-death-{field}"] = newest[field]
    return lines[:at] + ["      headers=" + _table(sorted(pairs.items()))] + lines[at + 1:]


def _tags(lines):
    """Deliveries number themselves from the first on."""
    out, tag = [], None
    for line in lines:
        found = re.search(r"basic.deliver .*delivery_tag=(\d+)", line)
        if found:
            tag = int(found[1]) if tag is None else tag + 1
            line = re.sub(r"delivery_tag=\d+", f"delivery_tag={tag}", line)
        out.append(line)
    return out


RULES = {"tags": _tags, "afresh": _afresh, "history": _history, "words": _words}


class Differences:
    """differences.toml: an entry per scenario, or per shell pattern of scenarios."""

    def __init__(self, path):
        self.entries = tomllib.loads(path.read_text()) if path.exists() else {}
        for name, entry in self.entries.items():
            if not entry.get("reason") or not set(entry) <= {"reason", "rule", "replace", "drop", "cut", "transcript"}:
                raise SystemExit(f"differences.toml: {name} needs a reason, and only known keys")

    def unused(self, names):
        return [pattern for pattern in self.entries if not any(fnmatch.fnmatch(name, pattern) for name in names)]

    def apply(self, name, lines):
        """The lines we expect, and what is stale about the entry, if anything."""
        stale = None
        for pattern, entry in self.entries.items():
            if not fnmatch.fnmatch(name, pattern):
                continue
            if "transcript" in entry:
                lines = entry["transcript"].strip("\n").split("\n")
            if "rule" in entry:
                lines = RULES[entry["rule"]](lines)
            for old, new in entry.get("replace", []):
                if old.startswith("re:"):
                    changed = [re.sub(old[3:], new, line) for line in lines]
                else:
                    changed = [line.replace(old, new) for line in lines]
                if changed == lines and not any(char in pattern for char in "*?["):
                    stale = f"differences.toml: {old!r} is not in the reference any more"
                lines = [part for line in changed for part in line.split("\n") if part]
            for old in entry.get("drop", []):
                kept = [line for line in lines if old not in line]
                if kept == lines:
                    stale = f"differences.toml: no line with {old!r} in the reference any more"
                lines = kept
            if "cut" in entry:
                at = next((index for index, line in enumerate(lines) if entry["cut"] in line), None)
                if at is None:
                    stale = f"differences.toml: no line with {entry['cut']!r} in the reference any more"
                lines = lines[:at]
        return lines, stale
