"""What a result is called where names are all there is."""

from __future__ import annotations

from fewcore import LogEntry

NO_AXES = ("evaluator", "method", "split", "n", "norm", "seen")


def result_name(entry: LogEntry) -> str:
    """Return `result/score/accuracy/maml (way 5, shot 1)`: evaluator, metric, stage, and what it was measured on.

    >>> result_name(LogEntry("result", "maml", 0, {"accuracy": 0.9}, 0.0, {"evaluator": "score", "way": 5, "n": 200}))
    'result/score/accuracy/maml (way 5)'
    """
    said = ", ".join(f"{name} {value}" for name, value in entry.conditions.items() if name not in NO_AXES)
    metric = next(iter(entry.values))
    name = f"result/{entry.conditions.get('evaluator', '')}/{metric}/{entry.stage}"
    return f"{name} ({said})" if said else name
