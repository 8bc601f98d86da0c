"""Sections of params.yaml that say what a student is and how it is trained; and what every section is made of."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, model_validator


class Section(BaseModel):
    """Base of every section: frozen, no coercion, no unknown key."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


S = TypeVar("S", bound=BaseModel)
Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["float32", "bfloat16", "float16"]
ComputeType = Literal[
    "auto", "float32", "float16", "bfloat16", "int8", "int8_float32", "int8_float16", "int8_bfloat16", "int16"
]


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
    teacher_cache_top_k: Positive | None
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
