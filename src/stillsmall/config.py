"""params.yaml to frozen, strict, typed objects. No tracked parameter has a default in code: params.yaml holds them all.

Every error names the dotted path, the value that was given, what is allowed and, for a misspelt name, the nearest one.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from stillsmall.faults import in_words
from stillsmall.sections import (
    Augment,
    CapacityDynamic,
    ComputeType,
    Device,
    Distill,
    Dtype,
    IterativePruning,
    LanguageMean,
    Layers,
    Positive,
    S,
    Section,
    Share,
    Shrinking,
    Student,
)

__all__ = [
    "PARAMS",
    "Augment",
    "CapacityDynamic",
    "ComputeType",
    "ConfigError",
    "Data",
    "Decoding",
    "Device",
    "Distill",
    "Dtype",
    "Evaluate",
    "Filter",
    "IterativePruning",
    "Judgement",
    "LanguageMean",
    "Layers",
    "Mixture",
    "Models",
    "Params",
    "Positive",
    "Prepare",
    "Register",
    "Report",
    "Run",
    "S",
    "Score",
    "Section",
    "Share",
    "Shrinking",
    "Student",
    "Transcribe",
    "load",
    "parse",
    "plugin_section",
    "read_yaml",
]

PARAMS = Path("params.yaml")


class ConfigError(ValueError):
    """params.yaml (or an overlay of it) says something that cannot be; one line a fault."""


class Run(Section):
    seed: int
    threads: Positive


class Data(Section):
    root: str


class Models(Section):
    root: str


class Prepare(Section):
    sources: list[dict[str, Any]] = Field(min_length=1)
    shard_utterances: Positive
    min_duration_s: Annotated[float, Field(gt=0)]
    max_piece_s: Annotated[float, Field(ge=30)]
    silence_dbfs: Annotated[float, Field(lt=0)]
    max_broken_share: Share
    workers: Positive


class Decoding(Section):
    """How a model decodes, whoever it is: of `pseudo_label`, `validate` and `evaluate`."""

    backend: str
    language: str
    timestamps: bool
    num_beams: Positive
    temperatures: list[Annotated[float, Field(ge=0)]] = Field(min_length=1)
    compression_ratio_threshold: Annotated[float, Field(gt=0)] | None
    logprob_threshold: Annotated[float, Field(lt=0)] | None
    no_speech_threshold: Share | None
    window: Literal["full", "clip", "silence"]
    clip_margin_s: Annotated[float, Field(ge=0)]
    long_form: Literal["sequential", "chunked"]
    condition_on_previous_text: bool
    batch_size: Positive
    max_new_tokens: Positive | None
    device: Device
    dtype: Dtype
    compute_type: ComputeType


class Transcribe(Decoding):
    """What `pseudo_label` and `validate` share: which model, how it decodes, and where."""

    model: str
    revision: str | None
    task: Literal["transcribe", "translate"]
    max_failed_share: Share
    executor: Literal["local", "ray"]
    ray_address: str | None
    ray_actors: Positive
    gpus_per_actor: Annotated[float, Field(ge=0)]


class Score(Section):
    repetition_ngram: Positive
    repetition_max: Positive
    voice_activity: Literal["silero", "energy", "none"]
    speech_threshold: Share
    silence_below_peak_db: Annotated[float, Field(gt=0)]
    language_probability: Share
    language_letters: Positive
    language_model: str | None
    language_model_batch: Positive
    device: Device
    workers: Positive


class Mixture(Section):
    """How many kept labels of each group are trained on: `counts`, or `shares` of a `total`."""

    by: Literal["domain", "source", "language"]
    counts: dict[str, Annotated[int, Field(ge=0)]] | None
    shares: dict[str, Annotated[float, Field(ge=0)]] | Literal["equal"] | None
    total: Positive | None
    shortage: Literal["error", "less"]
    seed: int

    @model_validator(mode="after")
    def _one_way(self) -> Mixture:
        if (self.counts is None) == (self.shares is None):
            raise ValueError("give either counts or shares (then with a total, or null for as many as there are)")
        if self.counts is not None and self.total is not None:
            raise ValueError("total goes with shares; counts have their own")
        if isinstance(self.shares, dict) and not sum(self.shares.values()):
            raise ValueError("all shares are zero")
        return self


class Judgement(Section):
    """How the filters are judged where transcripts exist."""

    wer_above: list[Annotated[float, Field(ge=0)]] = Field(min_length=1)
    resamples: Positive
    seed: int
    curve_points: Annotated[int, Field(ge=2)]
    domain_points: Annotated[int, Field(ge=2)]


class Filter(Section):
    """`keep_if` names sections of `filters`, or combines them; filtering.rules reads its entries."""

    keep_if: list[Any]
    mixture: Mixture | None
    judgement: Judgement


class Evaluate(Decoding):
    speed_clips: Positive
    speed_rounds: Positive


class Report(Section):
    title: str
    examples: Positive
    audio_mb: Annotated[float, Field(ge=0)]


class Register(Section):
    name: str
    alias: str


class Params(Section):
    """The whole of params.yaml. Sections under `filters` and `objectives` are checked by their plugins."""

    run: Run
    data: Data
    models: Models
    prepare: Prepare
    pseudo_label: Transcribe
    validate_: Transcribe = Field(alias="validate")
    score: Score
    filter: Filter
    filters: dict[str, Any]
    student: Student
    distill: Distill
    augment: Augment
    objectives: dict[str, Any]
    evaluate: Evaluate
    report: Report
    register_: Register = Field(alias="register")


def parse(model: type[S], data: Any, path: str) -> S:
    """`data` as a `model`; ConfigError with a line per fault, each under its dotted path from `path`."""
    if not isinstance(data, dict):
        raise ConfigError(f"{path or 'params.yaml'}: got {data!r}; expected a section of key: value lines")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(in_words(model, fault, path) for fault in error.errors())) from None


@functools.cache
def _read(path: str, stamp: int) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(Path(path).read_text(encoding="utf-8"))
    except YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file as plain objects (YAML 1.2); ConfigError where it is missing, broken or not a mapping."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; run from the repository's root, or name it with --params")
    tree = _read(str(path.resolve()), path.stat().st_mtime_ns)
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected sections, got {type(tree).__name__}")
    return tree


def load(path: Path = PARAMS) -> Params:
    """All of params.yaml, typed. Plugin sections (`filters`, `objectives`) are left to their plugins."""
    return parse(Params, read_yaml(path), "")


def plugin_section(tree: dict[str, Any], kind: str, name: str, model: type[S]) -> S:
    """The parameters of plugin `name` under `kind` ('filters', 'objectives') as that plugin's own section."""
    return parse(model, tree.get(name, {}), f"{kind}.{name}")
