"""The table of ablations: fitting replies by task, and what is noted before them, a row a system (arXiv:2508.09600, Tables 2 and 6).

Rendered from results.json like everything else: ``echat.<task>`` and ``think.<score>`` are the full system, ``echat.<task>.<variant>`` and
``think_<variant>.<score>`` the others.
"""

from collections.abc import Mapping

from osum_echat.evaluate.judge_items import TASKS, VARIANTS
from osum_echat.evaluate.results import Score

_NOTED = ("wer", "gender", "age", "emotion", "event")
HEADER = ("system", *(f"echat {task}" for task in TASKS), *(f"noted: {name}" for name in _NOTED))


def ablation_rows(scores: Mapping[str, Score]) -> list[list[str]]:
    """Cells under :data:`HEADER`, with intervals; empty when there is no system to compare the full one with."""
    systems = {"": "full: notes, then answers", **VARIANTS}
    found = {variant: words for variant, words in systems.items() if _keys(variant) & scores.keys()}
    if len(found) < 2:
        return []
    return [[words, *(_cell(scores.get(key)) for key in _columns(variant))] for variant, words in found.items()]


def ablation_markdown(scores: Mapping[str, Score]) -> str:
    """The table for RESULTS.md, with its heading; "" when there is none."""
    rows = ablation_rows(scores)
    if not rows:
        return ""
    lines = [HEADER, ["---"] + ["---:"] * (len(HEADER) - 1), *rows]
    return "## Ablations\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _columns(variant: str) -> list[str]:
    ending, prefix = (f".{variant}", f"think_{variant}") if variant else ("", "think")
    return [*(f"echat.{task}{ending}" for task in TASKS), *(f"{prefix}.{name}" for name in _NOTED)]


def _keys(variant: str) -> set[str]:
    return set(_columns(variant)[: len(TASKS)])


def _cell(score: Score | None) -> str:
    if score is None:
        return "–"
    return f"{score.value:.1f}" if score.lo is None or score.hi is None else f"{score.value:.1f} [{score.lo:.1f}, {score.hi:.1f}]"
