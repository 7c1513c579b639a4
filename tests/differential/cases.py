"""Finds the scenarios: every public function of every module below `scenarios`, in the order of the source."""

import collections
import importlib
import inspect
import pathlib

Case = collections.namedtuple("Case", "area name title run wants")


def each(**variants):
    """One scenario per keyword: the function gets the value as its second argument."""
    def mark(function):
        function.variants = variants
        return function
    return mark


def wants(*features):
    """What a scenario needs beyond AMQP: "admin", or the name of an optional exchange type."""
    def mark(function):
        function.wants = features
        return function
    return mark


def load():
    out, seen = [], set()
    for path in sorted((pathlib.Path(__file__).parent / "scenarios").glob("*.py")):
        if path.stem == "__init__":
            continue
        module = importlib.import_module(f"scenarios.{path.stem}")
        functions = [function for _, function in inspect.getmembers(module, inspect.isfunction)
                     if function.__module__ == module.__name__ and not function.__name__.startswith("_")]
        functions.sort(key=lambda function: function.__code__.co_firstlineno)
        for function in functions:
            title = (function.__doc__ or "").strip().split("\n")[0]
            if not title:
                raise SystemExit(f"{path.name}: {function.__name__} has no description")
            needs = getattr(function, "wants", ())
            variants = getattr(function, "variants", None)
            if variants is None:
                found = [(function.__name__, title, function)]
            else:
                found = [(f"{function.__name__}_{name}", f"{title} [{name}]",
                          lambda t, function=function, value=value: function(t, value))
                         for name, value in variants.items()]
            for name, about, run in found:
                if name in seen:
                    raise SystemExit(f"two scenarios are called {name}")
                seen.add(name)
                out.append(Case(path.stem, name, about, run, needs))
    return out
