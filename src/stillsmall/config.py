"""params.yaml to frozen, strict, typed objects. No tracked parameter has a default in code: params.yaml holds them all.

Every error names the dotted path, the value that was given, what is allowed and, for a misspelt name, the nearest one.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, model_validator

from stillsmall.faults import in_words

PARAMS = Path("params.yaml")


class ConfigError(ValueError):
    """params.yaml (or an overlay of it) says something that cannot be; one line a fault."""


class Section(BaseModel):
    """Base of every section: frozen, no coercion, no unknown key."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", protected_namespaces=())


S = TypeVar("S", bound=BaseModel)
Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["float32", "bfloat16", "float16"]
ComputeType = Literal[
    "auto", "float32", "float16", "bfloat16", "int8", "int8_float32", "int8_float16", "int8_bfloat16", "int16"
]


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


def _layers(value: Any) -> Any:
    """null, n > 0, {first: n}, {last: n} or a list of numbers; which of them exist is known with the teacher."""

    def number(given: Any) -> bool:
        return isinstance(given, int) and not isinstance(given, bool)

    if isinstance(value, dict):
        good = len(value) == 1 and set(value) <= {"first", "last"} and all(number(n) and n > 0 for n in value.values())
    elif isinstance(value, list):
        good = all(number(n) for n in value)
    else:
        good = value is None or (number(value) and value > 0)
    if not good:
        raise ValueError("expected null, a number above 0, {first: n}, {last: n} or a list of layer numbers")
    return value


Layers = Annotated[int | list[int] | dict[Literal["first", "last"], int] | None, PlainValidator(_layers)]


class LanguageMean(Section):
    """A language token whose embedding begins as the mean of others (codes such as zh)."""

    token: str
    mean_of: list[str] = Field(min_length=1)


class Shrinking(Section):
    """What every kind of `student.pruning` has: between which shares of training, and how many layers remain."""

    encoder_layers: Positive | None
    decoder_layers: Positive | None
    start: Share
    end: Share

    @model_validator(mode="after")
    def _in_order(self) -> Shrinking:
        if self.start >= self.end:
            raise ValueError(f"start ({self.start}) must come before end ({self.end})")
        return self


class IterativePruning(Shrinking):
    kind: Literal["iterative"]
    encoder_ffn: Annotated[float, Field(gt=0, le=1)]
    decoder_ffn: Annotated[float, Field(gt=0, le=1)]
    decay: Annotated[float, Field(ge=0, lt=1)]


class CapacityDynamic(Shrinking):
    kind: Literal["capacity"]
    weight: Annotated[float, Field(gt=0)]
    gate_speed: Annotated[float, Field(gt=0)]


class Student(Section):
    model: str | None
    revision: str | None
    encoder_layers: Layers
    decoder_layers: Layers
    freeze_encoder: bool
    freeze: list[str]
    language_embedding: Annotated[list[LanguageMean], Field(min_length=1)] | None
    vocabulary: Literal["full", "corpus"]
    vocabulary_min_count: Positive
    pruning: Annotated[IterativePruning | CapacityDynamic, Field(discriminator="kind")] | None
    save_dtype: Dtype


class FurtherTeacher(Section):
    model: str
    revision: str | None


class Distill(Section):
    objective: str
    seed: int
    more_teachers: list[FurtherTeacher]
    steps: Positive
    batch_size: Positive
    micro_batch: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    warmup_steps: Annotated[int, Field(ge=0)]
    schedule: Literal["linear", "cosine", "constant"]
    betas: list[Annotated[float, Field(ge=0, lt=1)]] = Field(min_length=2, max_length=2)
    eps: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    clip_norm: Annotated[float, Field(gt=0)]
    timestamp_probability: Share
    previous_text_probability: Share
    packing: Literal["none", "recording", "speaker"]
    encoder_cache_gb: Annotated[float, Field(ge=0)]
    teacher_cache_gb: Annotated[float, Field(ge=0)]
    teacher_cache_top_k: Positive
    gradient_checkpointing: bool
    prefetch: Count
    max_bad_steps: Count
    dev_every: Count
    dev_clips: Positive
    dev_share: Annotated[float, Field(ge=0, lt=1)]
    keep: Literal["last", "best"]
    patience: Positive | None
    checkpoint_every: Positive
    log_every: Positive
    processes: Positive
    device: Device
    dtype: Dtype


class Augment(Section):
    """What the student hears in place of clean clips; a range is [lowest, highest]."""

    teacher_hears: Literal["clean", "same"]
    speed_probability: Share
    speed_factors: list[Annotated[float, Field(ge=0.5, le=2)]] = Field(min_length=1)
    reverb_probability: Share
    reverb_rt60_s: list[Annotated[float, Field(gt=0, le=10)]] = Field(min_length=2, max_length=2)
    reverb_wet: list[Annotated[float, Field(ge=0)]] = Field(min_length=2, max_length=2)
    noise_probability: Share
    noise_snr_db: list[float] = Field(min_length=2, max_length=2)
    noise_kinds: list[Literal["white", "pink"]] = Field(min_length=1)
    noise_folder: str | None
    mask_probability: Share
    frequency_masks: Count
    frequency_mask_bins: Count
    time_masks: Count
    time_mask_s: Annotated[float, Field(ge=0)]
    time_mask_share: Share

    @model_validator(mode="after")
    def _ranges(self) -> Augment:
        for name in ("reverb_rt60_s", "reverb_wet", "noise_snr_db"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: the range [{low}, {high}] must begin with its lowest value")
        return self


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
