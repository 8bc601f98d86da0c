"""Values of params.yaml that are valid one by one and impossible together in training. Light: no model is looked at.

So they are said before hours of labelling (`stillsmall doctor --quick`, which `make repro` asks first), and again where
training begins.
"""

from __future__ import annotations

from stillsmall.config import ConfigError, Params


def check(params: Params, processes: int) -> None:
    """ConfigError for what cannot be together; `processes` is how many train, whoever starts them."""
    _labels(params)
    _measuring(params)
    _steps(params, processes)


def _labels(params: Params) -> None:
    if params.distill.timestamp_probability > 0 and not params.pseudo_label.timestamps:
        raise ConfigError(
            f"distill.timestamp_probability: got {params.distill.timestamp_probability}, but pseudo_label."
            "timestamps is false, so the labels have no times to learn; set one of the two"
        )


def _measuring(params: Params) -> None:
    if params.student.pruning is not None and params.distill.keep == "best":
        raise ConfigError(
            "distill.keep: got 'best', but student.pruning makes the student smaller up to its end, so that the best "
            "weights may be of a larger one; set it to last"
        )
    if params.student.pruning is not None and params.distill.patience is not None:
        raise ConfigError(
            f"distill.patience: got {params.distill.patience}, but student.pruning needs the whole run to make the "
            "student smaller; what ends before is cut at once; set it to null"
        )
    if not params.distill.dev_every:
        wanted = {"keep": params.distill.keep == "best", "patience": params.distill.patience is not None}
        for name in (name for name, asked in wanted.items() if asked):
            raise ConfigError(
                f"distill.{name}: got {getattr(params.distill, name)!r}, but distill.dev_every is 0, so that no error "
                "rate is ever taken; give it a number of steps"
            )


def _steps(params: Params, processes: int) -> None:
    if params.distill.warmup_steps > params.distill.steps:
        raise ConfigError(
            f"distill.warmup_steps: got {params.distill.warmup_steps}; there are only {params.distill.steps} steps"
        )
    if processes > params.distill.batch_size:
        raise ConfigError(
            f"distill.processes: got {processes}, but a step has distill.batch_size = {params.distill.batch_size} "
            "clips, so that some process would have none; start fewer, or make batches larger"
        )
