"""Rules over the score table: what is kept, what is not, and why. No model runs here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stillsmall import cache, manifest
from stillsmall.config import ConfigError, Filter, Mixture, plugin_section
from stillsmall.filters import TABLE
from stillsmall.filters.base import Filter as Rule
from stillsmall.filters.base import Ranking
from stillsmall.mixture import draw
from stillsmall.plugins import resolve

SECONDS_PER_HOUR = 3600


def rules(config: Filter, sections: dict[str, Any]) -> dict[str, Rule]:
    """The filters that `filter.keep_if` names, each with its parameters from `filters`; all sections are checked."""
    made = {}
    for name in sections:
        kind = resolve(TABLE, name, f"filters.{name}")
        plugin_section(sections, "filters", name, kind.Config)
    for number, name in enumerate(config.keep_if):
        kind = resolve(TABLE, name, f"filter.keep_if[{number}]")
        made[name] = kind(plugin_section(sections, "filters", name, kind.Config))
    return made


def judge(row: Mapping[str, Any], judges: Mapping[str, Rule]) -> list[dict[str, str]]:
    """The verdicts against a row: one per rule that would drop it, with the rule, the value and the reason."""
    verdicts = ((name, rule.judge(row)) for name, rule in judges.items())
    return [{"rule": n, "value": json.dumps(v.value), "reason": v.reason} for n, v in verdicts if not v.keep]


def split(
    scores: Path, kept: Path, rejected: Path, counts: Path, judges: Mapping[str, Rule], mixture: Mixture | None = None
) -> None:
    """Writes the kept rows, the rejected ones with every reason, and the counts per reason and domain.

    A mixture is drawn from what the rules have kept; what it leaves out is rejected with the reason.

    Raises ConfigError where nothing is kept, naming the rules that emptied the set.
    """
    rows = manifest.rows(scores, manifest.SCORE)
    for rule in judges.values():
        if isinstance(rule, Ranking):
            rule.fit(rows)
    judged = [(row, judge(row, judges)) for row in rows]
    if mixture:
        left_out = draw([row for row, verdicts in judged if not verdicts], mixture)
        judged = [(row, verdicts + _left_out(row, left_out, mixture)) for row, verdicts in judged]
    keep = [row for row, verdicts in judged if not verdicts]
    drop = [{**row, "verdicts": verdicts} for row, verdicts in judged if verdicts]
    summary = summarise(keep, drop)
    if not keep:
        alone = ", ".join(f"{rule} ({n['labels']} of {len(rows)})" for rule, n in summary["reasons"].items())
        raise ConfigError(
            f"filter.keep_if: no label is left to train on. Dropped by: {alone or 'there were no labels'}"
        )
    manifest.write(kept, keep, manifest.SCORE)
    manifest.write(rejected, drop, manifest.REJECTED)
    cache.write_json(counts, summary)


def _left_out(row: Mapping[str, Any], left_out: Mapping[str, str], mixture: Mixture) -> list[dict[str, str]]:
    reason = left_out.get(row["utt_id"])
    return [{"rule": "mixture", "value": json.dumps(row[mixture.by]), "reason": reason}] if reason else []


def summarise(keep: list[dict[str, Any]], drop: list[dict[str, Any]]) -> dict[str, Any]:
    """Labels and hours: kept, rejected, per reason (a label may have several), per domain; and their label WER."""
    domains = sorted({row["domain"] for row in keep + drop})
    names = sorted({v["rule"] for row in drop for v in row["verdicts"]})
    reasons = {name: amount([row for row in drop if name in {v["rule"] for v in row["verdicts"]}]) for name in names}
    per_domain = {
        domain: {
            "kept": amount([row for row in keep if row["domain"] == domain]),
            "rejected": amount([row for row in drop if row["domain"] == domain]),
        }
        for domain in domains
    }
    return {"kept": amount(keep), "rejected": amount(drop), "reasons": reasons, "domains": per_domain}


def amount(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How many labels, how many hours, and their WER where transcripts exist (summed errors over summed words)."""
    known = [row for row in rows if row["reference"] is not None]
    errors, words = (sum(row[name] for row in known) for name in ("ref_wer_errors", "ref_words"))
    hours = round(sum(row["duration_s"] for row in rows) / SECONDS_PER_HOUR, 6)
    return {"labels": len(rows), "hours": hours} | ({"label_wer": round(errors / words, 6)} if words else {})
