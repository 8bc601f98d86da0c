"""Rules over the score table: what is kept, what is not, and why. No model runs here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stillsmall import cache, manifest
from stillsmall.config import ConfigError, Filter, Mixture, parse
from stillsmall.filters import TABLE
from stillsmall.filters.base import Filter as Rule
from stillsmall.filters.base import Ranking
from stillsmall.filters.combination import All, Finding, Rules, parse_all
from stillsmall.mixture import draw
from stillsmall.plugins import UnknownName, nearest, require, resolve

SECONDS_PER_HOUR = 3600
BATCH = 65_536  # rejected rows whose reasons are looked up at a time


def rules(config: Filter, sections: Mapping[str, Any]) -> Rules:
    """The combination that `filter.keep_if` describes; every section of `filters` is checked, used or not.

    Raises ConfigError or UnknownName with the dotted path and the nearest valid name.
    """
    made = {name: _section(name, section) for name, section in sections.items()}

    def rule(name: str, path: str) -> Rule:
        if name not in made:
            raise UnknownName(f"{path}: unknown '{name}'; {nearest(name, made)}")
        return made[name]

    matched = {
        name: parse_all(found.match, f"filters.{name}.labels.match", rule)
        for name, found in made.items()
        if isinstance(found, Ranking) and found.match
    }
    for name in matched:
        _no_circle(name, matched, ())
    return Rules(parse_all(config.keep_if, "filter.keep_if", rule), made, matched)


def _section(name: str, section: Any) -> Rule:
    """The filter of one section: of the section's own name, or of the `kind` that it gives."""
    path, given = f"filters.{name}", dict(section) if isinstance(section, Mapping) else section
    kind = name
    if isinstance(given, dict) and "kind" in given:
        kind = given.pop("kind")
        require(TABLE, str(kind), f"{path}.kind")
        if name in TABLE and kind != name:
            raise ConfigError(
                f"{path}.kind: got '{kind}'; a section named after a filter is that filter: name it otherwise"
            )
    elif name not in TABLE:
        raise UnknownName(f"{path}: unknown '{name}'; {nearest(name, TABLE)} (a name of your own needs a kind)")
    found: type[Rule] = resolve(TABLE, kind, path)
    return found(parse(found.Config, given, path))  # type: ignore[call-arg]


def _no_circle(name: str, matched: Mapping[str, All], above: tuple[str, ...]) -> None:
    if name in above:
        raise ConfigError(f"filters.{name}.labels.match: goes in a circle: {' -> '.join((*above, name))}")
    for inner in matched[name].leaves() if name in matched else ():
        _no_circle(inner, matched, (*above, name))


def judge(row: Mapping[str, Any], judges: Rules) -> list[Finding]:
    """What speaks against a row, with the rule, the value (JSON) and the reason; empty if it is kept."""
    return judges.against(row)


def split(
    scores: Path, kept: Path, rejected: Path, counts: Path, judges: Rules, mixture: Mixture | None = None
) -> None:
    """Writes the kept rows, the rejected ones with every reason, and the counts per reason and domain.

    A mixture is drawn from what the rules have kept; what it leaves out is rejected with the reason.

    Raises ConfigError where nothing is kept, naming the rules that emptied the set.
    """
    table = manifest.read(scores, manifest.SCORE)
    judges.fit(table)
    keeps = judges.keeps(table)
    left_out = draw(table.filter(pa.array(keeps)), mixture) if mixture else {}
    keeps &= ~np.isin(table["utt_id"].to_numpy(), list(left_out))
    keep, drop = table.filter(pa.array(keeps)), table.filter(pa.array(~keeps))
    drop = drop.append_column(manifest.REJECTED.field("verdicts"), _verdicts(drop, judges, left_out))
    summary = summarise(keep, drop)
    if not keep.num_rows:
        alone = ", ".join(f"{rule} ({n['labels']} of {table.num_rows})" for rule, n in summary["reasons"].items())
        raise ConfigError(
            f"filter.keep_if: no label is left to train on. Dropped by: {alone or 'there were no labels'}"
        )
    manifest.write(kept, keep.combine_chunks(), manifest.SCORE)
    manifest.write(rejected, drop.combine_chunks(), manifest.REJECTED)
    cache.write_json(counts, summary)


def _verdicts(drop: pa.Table, judges: Rules, left_out: Mapping[str, Finding]) -> pa.ChunkedArray:
    """The findings against each rejected row; only the columns that the rules read become Python objects."""
    batches = drop.select(list({"utt_id": None} | dict.fromkeys(judges.columns))).to_batches(max_chunksize=BATCH)
    kind = manifest.REJECTED.field("verdicts").type

    def findings(row: Mapping[str, Any]) -> list[Finding]:
        return [left_out[row["utt_id"]]] if row["utt_id"] in left_out else judges.against(row)

    return pa.chunked_array([pa.array([findings(row) for row in batch.to_pylist()], kind) for batch in batches], kind)


def summarise(keep: pa.Table, drop: pa.Table) -> dict[str, Any]:
    """Labels and hours: kept, rejected, per reason (a label may have several), per domain; and their label WER."""
    domains = sorted(set(pc.unique(keep["domain"]).to_pylist()) | set(pc.unique(drop["domain"]).to_pylist()))
    per_domain = {
        domain: {
            "kept": amount(keep.filter(pc.equal(keep["domain"], domain))),
            "rejected": amount(drop.filter(pc.equal(drop["domain"], domain))),
        }
        for domain in domains
    }
    named = pc.struct_field(pc.list_flatten(drop["verdicts"]), "rule")
    owners = pc.list_parent_indices(drop["verdicts"])
    names = sorted(pc.unique(named).to_pylist())
    measured = drop.select(MEASURED)
    reasons = {
        name: amount(measured.take(np.unique(owners.filter(pc.equal(named, name)).to_numpy()))) for name in names
    }
    return {"kept": amount(keep), "rejected": amount(drop), "reasons": reasons, "domains": per_domain}


MEASURED = ["duration_s", "reference", "ref_wer_errors", "ref_words"]


def amount(table: pa.Table) -> dict[str, Any]:
    """How many labels, how many hours, and their WER where transcripts exist (summed errors over summed words)."""
    known = table.select(MEASURED).filter(pc.is_valid(table["reference"]))
    errors, words = (pc.sum(known[name]).as_py() or 0 for name in ("ref_wer_errors", "ref_words"))
    hours = round((pc.sum(table["duration_s"]).as_py() or 0.0) / SECONDS_PER_HOUR, 6)
    return {"labels": table.num_rows, "hours": hours} | ({"label_wer": round(errors / words, 6)} if words else {})
